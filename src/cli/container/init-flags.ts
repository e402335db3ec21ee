/** What create and run have in common: a container and its first process, from a bundle. */
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { Container, type ProcessSpec } from "../../core/library/public.ts";
import type { CommandContext } from "../command.ts";
import { CommandError } from "../command-error.ts";
import type { Flags, FlagTable } from "../flags.ts";
import { readBundle } from "./bundle.ts";
import { givenId } from "./loaded.ts";
import { hostNotifySocket, makeNotifyDirectory, notifyParts } from "./notify-socket.ts";
import { descriptorsToPass } from "./passed-descriptors.ts";

export const initFlags = {
  bundle: { short: "b", value: "DIR", about: "the bundle (default: the working directory)" },
  "console-socket": {
    value: "PATH",
    about: "who is sent the terminal's master, when the process has a terminal and nobody stays with it",
  },
  "pid-file": { value: "FILE", about: "where the first process's pid is written" },
  "preserve-fds": { value: "N", about: "pass N further descriptors, from 3 on, after those of LISTEN_FDS" },
  "no-new-keyring": { about: "keep the caller's session keyring" },
  "no-pivot": { about: "move the root over / instead of pivot_root: for bundles on an initramfs" },
  "pidfd-socket": { value: "PATH", about: "who is sent a pidfd of the first process" },
} as const satisfies FlagTable;

export interface Bundled {
  readonly container: Container;
  /** Of config.json, without stdio. */
  readonly process: ProcessSpec;
}

/** Makes the container; nothing of it runs. `detached`: nobody stays who could serve a terminal. */
export async function createFromBundle(context: CommandContext, detached: boolean): Promise<Bundled> {
  const { flags, args, place } = context;
  const id = givenId(args);
  const { config, process } = readBundle(flags.one("bundle") ?? ".", context);
  const consoleSocket = consoleSocketFor(flags, process.terminal === true, detached);
  const passed = descriptorsToPass(flags.integer("preserve-fds") ?? 0);
  const spec: ProcessSpec = {
    ...process,
    env: [...(process.env ?? []), ...passed.env],
    extraFiles: passed.fds,
    ...(consoleSocket === undefined ? {} : { consoleSocket }),
  };
  const awaited = hostNotifySocket() === undefined ? undefined : notifyParts(join(place.root, id));
  // Others than root pass through it to the roots of pods.
  mkdirSync(dirname(place.root), { recursive: true, mode: 0o711 });
  const keyring = flags.has("no-new-keyring") ? { noNewKeyring: true } : {};
  const pivot = flags.has("no-pivot") ? { noPivotRoot: true } : {};
  const mounts = [...(config.mounts ?? []), ...(awaited === undefined ? [] : [awaited.mount])];
  const container = await Container.create(place.root, id, { ...config, mounts, ...keyring, ...pivot });
  if (awaited === undefined) return { container, process: spec };
  makeNotifyDirectory(join(place.root, id));
  return { container, process: { ...spec, env: [...(spec.env ?? []), awaited.env] } };
}

/** With a terminal, stdio is that; else the caller's own descriptors, which need nobody to stay. */
export function ownStdio({ terminal }: ProcessSpec): Pick<ProcessSpec, "stdin" | "stdout" | "stderr"> {
  return terminal === true ? {} : { stdin: 0, stdout: 1, stderr: 2 };
}

export function consoleSocketFor(flags: Flags, terminal: boolean, detached: boolean): string | undefined {
  const socket = flags.one("console-socket");
  if (terminal && detached && socket === undefined) {
    throw new CommandError("cannot allocate tty if runtime will detach without setting console socket");
  }
  if (socket !== undefined && !(terminal && detached)) {
    throw new CommandError("cannot use console socket if runtime will not detach or allocate tty");
  }
  return socket;
}
