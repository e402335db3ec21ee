import { closeSync, openSync } from "node:fs";
import { RuntimeError, wrapError } from "../../lib/errors.ts";
import { openFlag } from "../../native/constants.ts";
import type { ProcessIdentity } from "../runtime.ts";
import { closeAll, ShimClient, type ShimEvent } from "./client.ts";
import type { RecordOfMessage } from "./codec.ts";
import { ShimEvents, type ShimListeners } from "./events.ts";
import { requestFailure } from "./failure.ts";
import { minProtocolVersion, protocolVersion } from "./messages.ts";
import { readStartTicks } from "./process-handle.ts";
import { Shim } from "./shim.ts";

export interface ConnectOptions {
  readonly podId: string;
  /** The pod's directory, which holds the socket. */
  readonly runDir: string;
  /** The shim that must answer; null: whichever does, if it is consistent. */
  readonly expected: ProcessIdentity | null;
  /** Exits that nobody has acknowledged come right after the answer to the hello. */
  readonly listeners: ShimListeners;
  /** The connection keeps this process not alive. */
  readonly background?: boolean;
  readonly signal?: AbortSignal | undefined;
}

const socketName = "shim.sock";
const helloMs = 5_000;
/** Our side in the shim's records. */
const build = "caissond";

/**
 * Connects and greets. `unavailable`: no shim listens there (fields.errno ENOENT or ECONNREFUSED) or it is lost on the way;
 * `failed_precondition`: something else answers, or no protocol is in common.
 */
export async function connectShim(options: ConnectOptions): Promise<Shim> {
  const { podId, expected } = options;
  const events = new ShimEvents(options.listeners);
  const client = open(options, events);
  try {
    const peer = client.peer();
    const hello = await greet(client, options);
    if (peer.uid !== process.geteuid?.() || peer.pid !== hello.pid) {
      throw stranger(podId, `process ${peer.pid} of user ${peer.uid} listens on its socket`);
    }
    verify(hello, podId, expected);
    const shim = new Shim(client, hello, events);
    events.release();
    return shim;
  } catch (error) {
    client.close();
    throw error;
  }
}

function open(options: ConnectOptions, events: ShimEvents): ShimClient {
  const { podId, runDir } = options;
  let dirFd = -1;
  try {
    dirFd = openSync(runDir, openFlag.path | openFlag.directory);
    const listeners = {
      onEvent: (event: ShimEvent) => events.dispatch(event),
      onLost: (error: RuntimeError) => events.lost(error),
    };
    return new ShimClient(podId, dirFd, socketName, listeners, options.background);
  } catch (error) {
    const cause = wrapError(`no shim answers for pod ${podId}`, error);
    const errno = error instanceof Error && "errno" in error && typeof error.errno === "number" ? Math.abs(error.errno) : 0;
    throw new RuntimeError("unavailable", cause.message, { errno, ...cause.fields }, error);
  } finally {
    if (dirFd >= 0) closeSync(dirFd);
  }
}

async function greet(client: ShimClient, options: ConnectOptions): Promise<RecordOfMessage<"hello-reply">> {
  const what = `shim of pod ${options.podId}`;
  const reply = await client.request({
    name: "hello",
    record: { minProtocol: minProtocolVersion, maxProtocol: protocolVersion, build },
    deadlineMs: helloMs,
    signal: options.signal,
    what,
    explain: (failure) =>
      requestFailure(`${what} refuses this daemon (protocols ${minProtocolVersion} to ${protocolVersion})`, failure),
  });
  closeAll(reply.fds);
  if (reply.name === "hello-reply") return reply.record;
  throw new RuntimeError("internal", `${what} answered hello with ${reply.name}`);
}

function verify(hello: RecordOfMessage<"hello-reply">, podId: string, expected: ProcessIdentity | null): void {
  const { protocol, minProtocol, maxProtocol, pid, startTicks } = hello;
  if (protocol < minProtocolVersion || protocol > protocolVersion) {
    const ranges = `it speaks protocols ${minProtocol} to ${maxProtocol}, this daemon ${minProtocolVersion} to ${protocolVersion}`;
    throw new RuntimeError("failed_precondition", `the shim of pod ${podId} (build ${hello.build}) cannot be used: ${ranges}`, {
      pod: podId,
    });
  }
  if (hello.podId !== podId) throw stranger(podId, `the shim of pod ${hello.podId} listens on its socket`);
  if (expected !== null && (expected.pid !== pid || expected.startTicks !== startTicks)) {
    throw stranger(podId, `process ${pid} answers where ${expected.pid} was recorded`);
  }
  if (readStartTicks(pid) !== startTicks) throw stranger(podId, `process ${pid} is not the one that it says`);
}

function stranger(podId: string, reason: string): RuntimeError {
  return new RuntimeError("failed_precondition", `the shim of pod ${podId} cannot be trusted: ${reason}`, { pod: podId });
}
