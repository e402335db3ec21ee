/** What may be asked of a checkpoint or a restore, beyond where it lies. */
import { constants, readFileSync } from "node:fs";
import { errnoName, RuntimeError } from "../../lib/errors.ts";

/** How cgroups below the container's own are treated; its own comes from the configuration. ignore: everything goes into its own. */
export type CgroupsMode = "ignore" | "soft" | "full" | "strict";

export interface CommonOptions {
  /** Directory of the images: made (0700) by a checkpoint, read by a restore. */
  readonly imagesDirectory: string;
  /** For CRIU's log, statistics and page server; the images' directory unless told otherwise. */
  readonly workDirectory?: string | undefined;
  /** Established TCP connections too. */
  readonly tcpEstablished?: boolean | undefined;
  /** Unix sockets whose other end is outside. */
  readonly externalUnixSockets?: boolean | undefined;
  /** File locks; all of their holders must be in the container. */
  readonly fileLocks?: boolean | undefined;
  /** The session and the terminal belong to somebody outside. */
  readonly shellJob?: boolean | undefined;
  readonly manageCgroupsMode?: CgroupsMode | undefined;
  readonly autoDedup?: boolean | undefined;
  /** CRIU's own configuration, which goes before everything here. */
  readonly configFile?: string | undefined;
  /** The whole operation. 0 or absent: two minutes. */
  readonly timeoutMs?: number | undefined;
  /** Steps of CRIU, in order: `pre-dump`, `network-lock`, `setup-namespaces`, `post-restore`, ... A rejection makes it give up. */
  readonly onStep?: ((step: string, pid: number) => Promise<void> | void) | undefined;
}

export interface CheckpointOptions extends CommonOptions {
  readonly leaveRunning?: boolean | undefined;
  /** Connections under way are left out. */
  readonly tcpSkipInFlight?: boolean | undefined;
  /** Deleted files that still have names are linked again, in the container's root. */
  readonly linkRemap?: boolean | undefined;
  /** Largest deleted file that is kept, in bytes. */
  readonly ghostLimitBytes?: number | undefined;
  /** Only memory, and the container goes on: a later checkpoint saves what has changed since. Needs a kernel that tracks memory. */
  readonly preDump?: boolean | undefined;
  /** Images of the pre-dump before, relative to imagesDirectory. */
  readonly parentPath?: string | undefined;
  /** A CRIU page server, which gets the memory. With lazyPages: where we serve it. */
  readonly pageServer?: { readonly address: string; readonly port: number } | undefined;
  /** Memory stays here until `criu lazy-pages` on the other side has fetched it from pageServer: only then the checkpoint ends. */
  readonly lazyPages?: boolean | undefined;
  /** Gets a zero byte when the images are there and pages can be fetched. */
  readonly statusFd?: number | undefined;
}

export interface RestoreOptions extends CommonOptions {
  /** Connections are restored as closed. */
  readonly tcpClose?: boolean | undefined;
  /** Memory comes by and by from a `criu lazy-pages` that listens in the work directory. */
  readonly lazyPages?: boolean | undefined;
  /** As "apparmor:PROFILE" or "selinux:LABEL", in place of the one of the images. */
  readonly lsmProfile?: string | undefined;
  readonly lsmMountContext?: string | undefined;
}

/** O_ACCMODE */
const accessMode = 3;
const defaultTimeoutMs = 120_000;

export function timeoutOf({ timeoutMs }: CommonOptions): number {
  if (timeoutMs === undefined || timeoutMs === 0) return defaultTimeoutMs;
  if (!Number.isSafeInteger(timeoutMs) || timeoutMs < 0) throw invalid(`timeoutMs ${timeoutMs} is no time`);
  return timeoutMs;
}

/** @throws RuntimeError invalid_argument, or unimplemented for what cannot be done. */
export function checkCheckpointOptions(options: CheckpointOptions): void {
  checkCommon(options);
  const { parentPath, preDump, leaveRunning, pageServer, lazyPages, statusFd, ghostLimitBytes } = options;
  if (parentPath?.startsWith("/")) throw invalid("parentPath must be relative");
  if (preDump === true && leaveRunning === false) throw invalid("a pre-dump leaves the container running");
  if (pageServer !== undefined && (pageServer.address === "" || !(pageServer.port > 0 && pageServer.port < 65_536)))
    throw invalid("pageServer needs an address and a port");
  if (ghostLimitBytes !== undefined && !(ghostLimitBytes > 0 && ghostLimitBytes < 2 ** 32))
    throw invalid("ghostLimitBytes is out of range");
  if (lazyPages === true && pageServer === undefined) throw invalid("lazyPages needs pageServer: where the pages are fetched");
  if (lazyPages === true && preDump === true) throw invalid("lazyPages and preDump exclude each other");
  if (statusFd !== undefined) checkStatusFd(statusFd, lazyPages === true);
}

/** @throws RuntimeError as for a checkpoint. */
export function checkRestoreOptions(options: RestoreOptions): void {
  checkCommon(options);
  if (options.manageCgroupsMode === "strict")
    throw invalid(
      "manageCgroupsMode strict restores no cgroup that is there, and the container's is: it is made first. Use full",
    );
  if (options.tcpClose === true && options.tcpEstablished === true)
    throw invalid("tcpClose and tcpEstablished exclude each other");
}

function checkCommon({ imagesDirectory, manageCgroupsMode }: CommonOptions): void {
  if (imagesDirectory === "") throw invalid("invalid directory to save checkpoint");
  if (manageCgroupsMode !== undefined && !["ignore", "soft", "full", "strict"].includes(manageCgroupsMode))
    throw invalid(`invalid manage-cgroups-mode value ${JSON.stringify(manageCgroupsMode)}`);
}

function invalid(message: string): RuntimeError {
  return new RuntimeError("invalid_argument", message);
}

function checkStatusFd(fd: number, lazyPages: boolean): void {
  if (!lazyPages) throw invalid("statusFd is only of use with lazyPages");
  let flags = 0;
  try {
    flags = Number.parseInt(/^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "0", 8);
  } catch (error) {
    if (errnoName(error) !== "ENOENT") throw error;
    throw invalid(`statusFd ${fd} is not open`);
  }
  if ((flags & accessMode) === constants.O_RDONLY) throw invalid(`statusFd ${fd} is not writable`);
}
