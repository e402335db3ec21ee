/**
 * The shim's protocol, as one table; scripts/generate writes native/common/gen/shim_messages.h from it. SEQPACKET: one message is
 * one packet: type u16, flags u16 (0), request id u32, payload length u32, then the payload's fields (lib/wire.ts), with
 * descriptors by SCM_RIGHTS. A payload over `inlineLimit` travels in a sealed memfd sent as the first descriptor (flag bit 0).
 *
 * ```
 *   daemon                               shim
 *     | hello -------------------------->  |  refuses other uids (SO_PEERCRED) and protocols out of range
 *     | <-------------------- hello-reply  |
 *     | create(plan, fds) -------------->  |  forks; child runs the plan
 *     | <----------------- barrier(n,pid)  |  child waits
 *     | continue(n) -------------------->  |
 *     | <------------------------ created  |  child is parked
 *     | start -------------------------->  |  released; report closes on execve
 *     | <------------------------ started  |
 *     | <--------------------------- exit  |  to every client, and again to each new one, until ack-exit
 *     | ack-exit, forget --------------->  |
 * ```
 *
 * A reply carries the id of its request. Events (exit, exec-exit, oom, barrier) carry the request id 0, but a barrier that of its
 * request. A request is answered by its own reply, by `ok` or by `failed`. If the client that asked goes away before `created` (or
 * before the reply of `run`), the child is killed and nothing stays.
 */
import type { Fields } from "../../lib/wire.ts";

export const protocolVersion = 2;
export const minProtocolVersion = 1;
export const inlineLimit = 32 << 10;

interface MessageSchema {
  readonly type: number;
  readonly fields: Fields;
}
const message = <const F extends Fields>(type: number, fields: F) => ({ type, fields }) satisfies MessageSchema;

/** Phases in `container-state`. */
export const shimPhase = { creating: 1, parked: 2, starting: 3, running: 4, exited: 5 } as const;
/** `flags` of create. stdin: keep a pipe; terminal: the plan has a `console` op; killRest: no private pid namespace, so kill the rest
 *  of the container's cgroup when init ends. */
export const createFlag = { stdin: 1, terminal: 2, killRest: 4, stdinOnce: 8 } as const;
/** `scope` of signal: init alone, or everything in the container's cgroups (cgroup.kill, or freeze-kill-thaw, re-scanned until empty). */
export const signalScope = { init: 0, all: 1 } as const;
/** Wait status as wait(2) gives it goes into `status`; this value means that it is unknown. */
export const unknownStatus = 0xffff_ffff;

export const messageSchemas = {
  hello: message(1, { minProtocol: "u32", maxProtocol: "u32", build: "str" }),
  /** ops: known op codes; messages: known message types; startTicks: field 22 of /proc/PID/stat; features bit 0: fallback mode. */
  "hello-reply": message(2, {
    protocol: "u32",
    minProtocol: "u32",
    maxProtocol: "u32",
    build: "str",
    podId: "str",
    pid: "u32",
    startTicks: "u64",
    features: "u32",
    ops: "u32s",
    messages: "u32s",
  }),
  ok: message(3, { value: "u64" }),
  /** op: index in the plan or 0xffffffff; errno 0: refused by the shim itself; detail: path or sentence. */
  failed: message(4, { errno: "u32", op: "u32", detail: "str" }),

  /** Runs a plan in a child of its own and answers `ok` (value: the child's exit code, normally 0) with the exported descriptors. */
  run: message(10, { cloneKinds: "u32", deadlineMs: "u32", plan: "bytes" }),
  /**
   * Forks an init. cgroup: directory for CLONE_INTO_CGROUP (v2), or empty. killPaths: cgroup directories of the container, for signal
   * scope all (first one wins that can kill). oomPath: v2 memory.events, or the v1 memory cgroup directory, or empty. logPath: empty
   * discards. logLineBytes: longest piece of a record, at most 65536 (0: 16384). deadlineMs bounds the plan up to `park` (0: none).
   * Slots 0 to 2 of the plan are the stdio that the shim makes (without `stdin`: /dev/null; with `terminal`: all three empty); the
   * request's descriptors follow from slot 3 on.
   */
  create: message(11, {
    id: "str",
    flags: "u32",
    cloneKinds: "u32",
    cgroup: "str",
    killPaths: "strs",
    oomPath: "str",
    logPath: "str",
    logLineBytes: "u32",
    deadlineMs: "u32",
    plan: "bytes",
  }),
  created: message(12, { pid: "u32", startTicks: "u64" }),
  barrier: message(13, { pid: "u32", number: "u32" }),
  /** Carries the request id of the create or exec that waits. */
  continue: message(14, { number: "u32" }),
  start: message(15, { id: "str" }),
  started: message(16, { atNs: "u64" }),
  /** stdin, stdout, stderr are the plan's slots 0 to 2 (absent stdin: /dev/null slot). timeoutMs 0: none. The whole session is killed on time-out. */
  exec: message(17, { id: "str", execId: "str", cloneKinds: "u32", cgroup: "str", timeoutMs: "u32", plan: "bytes" }),
  "exec-started": message(18, { pid: "u32", atNs: "u64" }),
  "exec-exit": message(19, { id: "str", execId: "str", status: "u32", timedOut: "u32", atNs: "u64" }),
  "exec-kill": message(20, { id: "str", execId: "str", signal: "u32" }),
  signal: message(21, { id: "str", signal: "u32", scope: "u32" }),
  "reopen-log": message(22, { id: "str" }),
  /** Answered by one container-state for each container, then ok. */
  list: message(23, {}),
  "container-state": message(24, {
    id: "str",
    phase: "u32",
    pid: "u32",
    startTicks: "u64",
    startedAtNs: "u64",
    status: "u32",
    exitedAtNs: "u64",
    oomKilled: "u32",
    logDroppedBytes: "u64",
  }),
  exit: message(25, {
    id: "str",
    pid: "u32",
    status: "u32",
    atNs: "u64",
    startedAtNs: "u64",
    oomKilled: "u32",
    logDroppedBytes: "u64",
  }),
  "ack-exit": message(26, { id: "str" }),
  /** Drops an exited or parked container (a parked init is killed first), its exit record and its log. */
  forget: message(27, { id: "str" }),
  oom: message(28, { id: "str", count: "u64" }),
  /** Kills every child and the reaper, answers ok and ends. */
  shutdown: message(29, {}),
  /** Descriptor: the new binary's image. Same pid, children, descriptors; clients reconnect. */
  reexec: message(30, {}),
  /** Starts a host program in its own session; descriptors become 0, 1, 2. Answered by ok (value: pid); spawn-exit follows. */
  "spawn-host": message(31, { argv: "strs", env: "strs", cwd: "str", deadlineMs: "u32" }),
  "spawn-exit": message(32, { pid: "u32", status: "u32", timedOut: "u32" }),
  resize: message(33, { id: "str", execId: "str", rows: "u32", cols: "u32" }),
  /** Descriptors: the client's stdin source, stdout and stderr sinks, as flags bits 0 to 2 say. */
  attach: message(34, { id: "str", flags: "u32" }),
  /** A started exec no longer belongs to the client that asked: it outlives that one, and every client hears of its end. */
  "exec-adopt": message(35, { id: "str", execId: "str" }),

  /** A container whose init will be restored: its log and stdio, as in create. Answered by ok with the process's ends of stdin, stdout
   *  and stderr (with `terminal`: none). Gone with everything in its cgroups if the client goes before `restore-adopt`. */
  "restore-prepare": message(110, {
    id: "str",
    flags: "u32",
    cgroup: "str",
    killPaths: "strs",
    oomPath: "str",
    logPath: "str",
    logLineBytes: "u32",
  }),
  /** This child of the shim, frozen with its cgroups, is the prepared container's init and waits for `start`, which thaws it. Answered by
   *  created. Descriptor: the master of its terminal, if the container has one. */
  "restore-adopt": message(111, { id: "str", pid: "u32" }),
} as const satisfies Record<string, MessageSchema>;
