/** What checkpoint and restore have in common. */
import { resolve } from "node:path";
import { keepCriuVersions } from "../../core/criu/criu-versions.ts";
import type { CheckpointOptions } from "../../core/library/public.ts";
import { CommandError } from "../command-error.ts";
import { ownCacheDirectory } from "../compile-cache.ts";
import type { Flags, FlagTable } from "../flags.ts";

export const criuFlags = {
  "image-path": { value: "DIR", about: "where the images are (default: checkpoint)" },
  "work-path": { value: "DIR", about: "where CRIU's log is (default: the image path)" },
  "tcp-established": { about: "with established TCP connections" },
  "ext-unix-sk": { about: "with unix sockets whose other end is outside" },
  "shell-job": { about: "the session and the terminal belong to somebody outside" },
  "file-locks": { about: "with file locks" },
  "manage-cgroups-mode": { value: "MODE", about: "soft, full, strict or ignore" },
  "auto-dedup": { about: "drop memory from former images" },
  "lazy-pages": { about: "memory is fetched by criu lazy-pages when it is needed" },
  "empty-ns": { value: "NAMESPACE", about: "network: its content is left out, as it is in any case" },
} as const satisfies FlagTable;

const modes = ["ignore", "soft", "full", "strict"] as const;

type Common = Omit<CheckpointOptions, "leaveRunning">;

export function criuOptions(flags: Flags): Common {
  const empty = flags.one("empty-ns");
  if (empty !== undefined && empty !== "network") throw new CommandError(`--empty-ns knows network only, not ${empty}`);
  const asked = flags.one("manage-cgroups-mode");
  const mode = modes.find((known) => known === asked);
  if (asked !== undefined && mode === undefined) throw new CommandError(`Invalid manage-cgroups-mode value: ${asked}`);
  const work = flags.one("work-path");
  const cache = ownCacheDirectory();
  if (cache !== undefined) keepCriuVersions(cache);
  return {
    imagesDirectory: resolve(flags.one("image-path") ?? "checkpoint"),
    workDirectory: work === undefined ? undefined : resolve(work),
    tcpEstablished: flags.has("tcp-established"),
    externalUnixSockets: flags.has("ext-unix-sk"),
    shellJob: flags.has("shell-job"),
    fileLocks: flags.has("file-locks"),
    autoDedup: flags.has("auto-dedup"),
    lazyPages: flags.has("lazy-pages"),
    manageCgroupsMode: mode,
  };
}
