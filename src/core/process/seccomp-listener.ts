/**
 * Who answers for system calls with the action NOTIFY (runtime-spec "The Container Process State"). The child of the helper waits at the
 * first barrier until the listener is connected, and at the second until it has the descriptor:
 *
 * ```
 *   init or exec             daemon                    another child of the helper
 *     | seccompBarrier ------> |  connect-unix ---------> |
 *     |                        | <---------- its barrier  |
 *     | <----------- continue  | ----------- continue ->  |
 *     | loads the filter       |                          |  finds, takes and sends the descriptor
 *     | handedBarrier -------> | <-------------- its end  |
 *     | <----------- continue  |
 * ```
 */
import { RuntimeError } from "../../lib/errors.ts";
import type { OciSeccomp } from "../oci.ts";
import type { RunRequest } from "../shim/requests.ts";

export const seccompBarrier = 3;
export const handedBarrier = 4;

const deadlineMs = 60_000;
const connectedBarrier = 1;

export function wantsListener({ syscalls = [] }: OciSeccomp): boolean {
  return syscalls.some(({ action }) => action === "SCMP_ACT_NOTIFY");
}

/** @throws RuntimeError invalid_argument. */
export function checkListener(profile: OciSeccomp | undefined): void {
  if (profile === undefined) return;
  const { listenerPath = "", listenerMetadata = "" } = profile;
  const wanted = wantsListener(profile);
  if (wanted && !listenerPath.startsWith("/")) throw invalid("seccomp: SCMP_ACT_NOTIFY needs an absolute listenerPath");
  if (!wanted && (listenerPath !== "" || listenerMetadata !== ""))
    throw invalid("seccomp: a listenerPath or listenerMetadata is of no use without SCMP_ACT_NOTIFY");
}

export interface ListenerState {
  /** OCI state of the container, with the pid of its first process. */
  readonly state: object;
  readonly profile: OciSeccomp;
}

/** One process's way to the listener. */
export class SeccompHandOver {
  readonly #run: (request: RunRequest) => Promise<unknown>;
  readonly #signal: AbortSignal;
  #handed: Promise<unknown> = Promise.resolve();

  constructor(run: (request: RunRequest) => Promise<unknown>, signal: AbortSignal) {
    this.#run = run;
    this.#signal = signal;
  }

  /** At seccompBarrier: resolves when the listener has answered. pid: of the process that loads the filter, as the host sees it. */
  async connect(pid: number, { state, profile }: ListenerState): Promise<void> {
    const path = profile.listenerPath ?? "";
    const metadata = profile.listenerMetadata ?? "";
    const message = { ociVersion: "1.3.0", fds: ["seccompFd"], pid, metadata, state };
    const connected = Promise.withResolvers<void>();
    this.#handed = this.#run({
      plan: [
        { op: "connect-unix", out: 0, path },
        { op: "barrier", number: connectedBarrier },
        { op: "send-listener", socket: 0, pid, message: Buffer.from(JSON.stringify(message)) },
      ],
      cloneKinds: 0,
      deadlineMs,
      what: `seccomp listener ${path}`,
      signal: this.#signal,
      onBarrier: async () => connected.resolve(),
    });
    this.#handed.catch(connected.reject);
    await connected.promise;
  }

  /** At handedBarrier. */
  async handed(): Promise<void> {
    await this.#handed;
  }
}

function invalid(message: string): RuntimeError {
  return new RuntimeError("invalid_argument", message);
}
