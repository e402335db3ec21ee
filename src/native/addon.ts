/** The only place that loads a .node file. Loaded at first use, so that what is pure can be imported without a build. */
import { createRequire } from "node:module";
import { type Code, messageOf, RuntimeError } from "../lib/errors.ts";
import { seccompAction } from "./constants.ts";
import { errnoNameOf, errnoText } from "./errno.ts";
import type { Addon, PipeWriter, SeccompRuleSet, SeqpacketConnection, SpawnRequest } from "./types.ts";

/** From src/native and from dist/native alike. */
const builtPath = "../../build/Release/caisson.node";
const leastStdio = 3;
const defaultSoftNofile = 1024;

let loaded: Addon | undefined;

function load(): Addon {
  try {
    if (loaded === undefined) {
      loaded = createRequire(import.meta.url)(builtPath) as Addon;
      /* The same switch as the shim's: fallbacks for older kernels are tested on newer ones. */
      loaded.denySyscalls((process.env.CAISSON_DENY_SYSCALLS ?? "").split(","));
    }
    return loaded;
  } catch (error) {
    throw new RuntimeError("internal", `the native addon cannot be loaded (${messageOf(error)}); run scripts/build`, {}, error);
  }
}

/** Number of the kernel error behind an error of this module (or of Node), or undefined. */
export function errnoOf(error: unknown): number | undefined {
  if (error instanceof RuntimeError) return typeof error.fields.errno === "number" ? error.fields.errno : undefined;
  if (error instanceof Error && "errno" in error && typeof error.errno === "number") return Math.abs(error.errno);
  return undefined;
}

/** Whether an error of this module (or of Node) stands for one of these kernel errors, such as "ENOENT". */
export function isErrno(error: unknown, ...names: readonly string[]): boolean {
  const number = errnoOf(error);
  return number !== undefined && names.includes(errnoNameOf(number));
}

const exhausted: ReadonlySet<string> = new Set(["ENOMEM", "EMFILE", "ENFILE", "ENOSPC", "EDQUOT"]);

function codeOfErrno(number: number): Code {
  return exhausted.has(errnoNameOf(number)) ? "resource_exhausted" : "internal";
}

/** A NativeError as a sentence; fields: errno, errnoName, syscall. `object` names what the call was about. */
function worded(error: unknown, object: string): RuntimeError {
  if (!(error instanceof Error && "errno" in error && typeof error.errno === "number")) {
    return error instanceof RuntimeError ? error : new RuntimeError("internal", messageOf(error), {}, error);
  }
  const number = error.errno;
  const syscall = "syscall" in error ? String(error.syscall) : "system call";
  const about = object === "" ? "" : ` of ${object}`;
  return new RuntimeError(
    codeOfErrno(number),
    `${syscall}${about}: ${errnoText(number)}`,
    { errno: number, errnoName: errnoNameOf(number), syscall },
    error,
  );
}

function call<T>(object: string, work: (native: Addon) => T): T {
  try {
    return work(load());
  } catch (error) {
    throw worded(error, object);
  }
}

async function callAsync<T>(object: string, work: (native: Addon) => Promise<T>): Promise<T> {
  try {
    return await work(load());
  } catch (error) {
    throw worded(error, object);
  }
}

/** Fewer than three descriptors would leave a program whose first open becomes its stdout. */
function complete(request: SpawnRequest): Required<SpawnRequest> {
  const missing = Math.max(0, leastStdio - request.fds.length);
  return {
    ...request,
    fds: [...request.fds, ...Array.from({ length: missing }, () => null)],
    softNofile: request.softNofile ?? defaultSoftNofile,
    cgroupFd: request.cgroupFd ?? null,
    taskFiles: request.taskFiles ?? [],
  };
}

function connection(raw: SeqpacketConnection): SeqpacketConnection {
  return {
    send: (packet, fds) => call("", () => raw.send(packet, fds)),
    onWritable: (callback) => call("", () => raw.onWritable(callback)),
    peer: () => call("", () => raw.peer()),
    close: () => raw.close(),
  };
}

function writer(raw: PipeWriter): PipeWriter {
  return {
    write: (bytes) => call("a pipe", () => raw.write(bytes)),
    onRoom: (callback) => raw.onRoom(callback),
    close: () => raw.close(),
  };
}

/** The addon with its errors worded: every failure is a RuntimeError with the fields errno, errnoName and syscall. */
export const addon: Addon = {
  spawn: (request) => call(JSON.stringify(request.path), (native) => native.spawn(complete(request))),
  waitChild: (pidfd, background = false) => callAsync("", (native) => native.waitChild(pidfd, background)),
  waitGone: (pidfd, background = false) => callAsync("", (native) => native.waitGone(pidfd, background)),
  pidfdOpen: (pid) => call(`process ${pid}`, (native) => native.pidfdOpen(pid)),
  pidfdSignal: (pidfd, signal) => call("", (native) => native.pidfdSignal(pidfd, signal)),
  killGroup: (pgid, signal) => call(`process group ${pgid}`, (native) => native.killGroup(pgid, signal)),
  setSlices: (microseconds, nice) => call("this thread", (native) => native.setSlices(microseconds, nice)),
  seqpacketConnect: (dirFd, name, onPacket, onClose, background = false) =>
    call(name, (native) => connection(native.seqpacketConnect(dirFd, name, onPacket, onClose, background))),
  seqpacketPair: (onPacket, onClose) =>
    call("a socket pair", (native) => {
      const raw = native.seqpacketPair(onPacket, onClose);
      return { ...connection(raw), otherEnd: raw.otherEnd };
    }),
  readPipe: (fd, onData, onEnd, background = false) => call("a pipe", (native) => native.readPipe(fd, onData, onEnd, background)),
  writePipe: (fd) => call("a pipe", (native) => writer(native.writePipe(fd))),
  openat2: (dirFd, path, flags, mode, resolve) =>
    call(JSON.stringify(path), (native) => native.openat2(dirFd, path, flags, mode, resolve)),
  denySyscalls: (names) => load().denySyscalls(names),
  pipe: (sizeBytes) => call("a pipe", (native) => native.pipe(sizeBytes)),
  streamPair: () => call("a socket pair", (native) => native.streamPair()),
  duplicate: (fd) => call(`descriptor ${fd}`, (native) => native.duplicate(fd)),
  eventfd: () => call("an event counter", (native) => native.eventfd()),
  resizeTerminal: (fd, rows, cols) => call("a terminal", (native) => native.resizeTerminal(fd, rows, cols)),
  sealedMemfd: (name, content, executable) => call(name, (native) => native.sealedMemfd(name, content, executable)),
  close: (fd) => call(`descriptor ${fd}`, (native) => native.close(fd)),
  umount2: (path, flags) => callAsync(path, (native) => native.umount2(path, flags)),
  extendedAttribute: (path, name) => call(path, (native) => native.extendedAttribute(path, name)),
  fsTypeOf: (fd) => call(`descriptor ${fd}`, (native) => native.fsTypeOf(fd)),
  unlock: (fd) => call(`descriptor ${fd}`, (native) => native.unlock(fd)),
  tryLock: (fd) => call(`descriptor ${fd}`, (native) => native.tryLock(fd)),
  fallocate: (fd, sizeBytes) => call(`${sizeBytes} bytes`, (native) => native.fallocate(fd, sizeBytes)),
  syncfs: (fd) => callAsync("", (native) => native.syncfs(fd)),
  readFiles: (paths) => callAsync("", (native) => native.readFiles(paths)),
  countDescriptors: (pids) => callAsync("", (native) => native.countDescriptors(pids)),
  trimMemory: () => load().trimMemory(),
  sendDatagram: (path, data, fd) => call(path, (native) => native.sendDatagram(path, data, fd)),
  bindDatagram: (dirFd, name) => call(name, (native) => native.bindDatagram(dirFd, name)),
  sendDescriptor: (dirFd, name, data, fd) => call(name, (native) => native.sendDescriptor(dirFd, name, data, fd)),
  seccompCompile: (rules) => callAsync("", (native) => native.seccompCompile(withEnosys(rules))),
  seccompSyscallNumber: (name) => call(name, (native) => native.seccompSyscallNumber(name)),
  attachDeviceProgram: (cgroupFd, instructions) =>
    call("a device program", (native) => native.attachDeviceProgram(cgroupFd, instructions)),
};

function withEnosys(rules: SeccompRuleSet): Required<SeccompRuleSet> {
  const permissive = [seccompAction.allow, seccompAction.log, seccompAction.trace].some(
    (action) => (rules.defaultAction & 0xffff_0000) >>> 0 === action,
  );
  return { ...rules, enosysForNewer: rules.enosysForNewer ?? !permissive };
}
