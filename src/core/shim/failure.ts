/** A shim's (op index, errno, detail) as a sentence that names the operation, the path and the reason. */
import { type Code, RuntimeError } from "../../lib/errors.ts";
import { errnoNameOf, errnoText } from "../../native/errno.ts";
import type { Op, OpName, Plan } from "../plan.ts";

/** The record of a `failed` message. */
export interface ShimFailure {
  readonly errno: number;
  readonly op: number;
  readonly detail: string;
}

/** `op` of a failure that happened outside of a plan. */
export const noOp = 0xffff_ffff;

type Words = { readonly [N in OpName]?: (op: Extract<Op, { op: N }>) => string };

/** What an operation tries to do; one that is not here is named as it is, with its path. */
const words: Words = {
  "join-ns": () => "join a namespace",
  "join-process": () => "join the namespaces of the container",
  "new-ns": () => "make new namespaces",
  "new-userns": () => "make a user namespace",
  "mapped-userns": () => "make a user namespace",
  "cgroup-attach": (op) => `join the cgroup ${quoted(op.path)}`,
  "bind-own-ns": (op) => `pin a namespace at ${quoted(op.path)}`,
  "open-tree": (op) => `open ${quoted(op.path)} for mounting`,
  fsmount: (op) => `make a ${op.type} file system`,
  overlay: () => "make the overlay of the root file system",
  "attach-root": (op) => `mount the root file system at ${quoted(op.path)}`,
  attach: (op) => `mount on ${quoted(op.path)} in the container`,
  "attach-host": (op) => `mount on ${quoted(op.path)}`,
  pivot: () => "change into the root file system",
  unmount: (op) => `unmount ${quoted(op.path)}`,
  mkdir: (op) => `make the directory ${quoted(op.path)} in the container`,
  mknod: (op) => `make the device ${quoted(op.path)} in the container`,
  symlink: (op) => `make the link ${quoted(op.path)} in the container`,
  mask: (op) => `mask ${quoted(op.path)}`,
  readonly: (op) => `make ${quoted(op.path)} read-only`,
  "open-in-root": (op) => `open ${quoted(op.path)} in the container`,
  "open-host": (op) => `open ${quoted(op.path)}`,
  "copy-tree": (op) => `copy ${quoted(op.path)} of the image into its volume`,
  hostname: (op) => `set the host name ${quoted(op.name)}`,
  sysctl: (op) => `set the sysctl ${op.key.replaceAll("/", ".")} to ${quoted(op.value)}`,
  "loopback-up": () => "bring up the loopback device",
  rlimit: (op) => `set resource limit ${op.resource}`,
  "oom-score-adj": (op) => `set the OOM score adjustment ${op.value}`,
  seccomp: () => "load the seccomp filter",
  user: (op) => `become user ${op.uid}, group ${op.gid}`,
  cwd: (op) => `change into the working directory ${quoted(op.path)}`,
  console: () => "open a terminal",
  exec: (op) => `execute ${quoted(op.path)}`,
  connect: (op) => `connect to port ${op.port} of the pod`,
};

/** Details that callers match by their text: exec: "x": executable file not found in $PATH; error running createContainer hook #0: why. */
const wholeSentence = /^(exec: "|error running )/;

function quoted(path: string): string {
  return JSON.stringify(path);
}

/** What this operation does, for messages: "mount on "/data" in the container". */
export function describeOp(op: Op): string {
  const word = words[op.op] as ((op: Op) => string) | undefined;
  if (word !== undefined) return word(op);
  return "path" in op ? `carry out ${op.op} of ${quoted(op.path)}` : `carry out ${op.op}`;
}

const exhausted: ReadonlySet<string> = new Set(["EAGAIN", "ENOMEM", "EMFILE", "ENFILE", "ENOSPC", "EDQUOT", "EUSERS"]);
/** Operations whose target the caller chose: what is wrong with it is the caller's to mend. */
const callersChoice: ReadonlySet<OpName> = new Set(["exec", "cwd", "open-tree", "open-host", "attach", "mkdir"]);
const badTarget: ReadonlySet<string> = new Set([
  "ENOENT",
  "ENOTDIR",
  "EISDIR",
  "EACCES",
  "EPERM",
  "ENOEXEC",
  "ELOOP",
  "ENAMETOOLONG",
  "E2BIG",
  "EINVAL",
  "ELIBBAD",
  "ETXTBSY",
]);

function codeOfOp(op: Op | undefined, name: string): Code {
  if (name === "ETIMEDOUT") return "deadline_exceeded";
  if (op !== undefined && callersChoice.has(op.op) && badTarget.has(name)) return "invalid_argument";
  return exhausted.has(name) ? "resource_exhausted" : "internal";
}

/** A failure of a plan. `what` says what the plan is for: "container abc". */
export function planFailure(what: string, plan: Plan, failure: ShimFailure): RuntimeError {
  if (failure.op === noOp) return requestFailure(what, failure);
  const op = plan[failure.op];
  const step = op === undefined ? `operation ${failure.op}` : describeOp(op);
  const more = failure.detail === "" || step.includes(quoted(failure.detail)) ? "" : ` (${failure.detail})`;
  const fields = {
    errno: failure.errno,
    errnoName: errnoNameOf(failure.errno),
    op: failure.op,
    opName: op?.op ?? "",
    detail: failure.detail,
  };
  const code = codeOfOp(op, errnoNameOf(failure.errno));
  if (wholeSentence.test(failure.detail)) return new RuntimeError(code, `${what}: ${failure.detail}`, fields);
  return new RuntimeError(code, `${what}: cannot ${step}: ${errnoText(failure.errno)}${more}`, fields);
}

/** `start` fails with the operation's index alone: its plan was sent at `create`, perhaps by an earlier daemon. */
export function startFailure(what: string, failure: ShimFailure): RuntimeError {
  if (failure.op === noOp) return requestFailure(what, failure);
  const name = errnoNameOf(failure.errno);
  const target = failure.detail === "" ? "its command" : quoted(failure.detail);
  const code = badTarget.has(name) ? "invalid_argument" : exhausted.has(name) ? "resource_exhausted" : "internal";
  const fields = { errno: failure.errno, errnoName: name, op: failure.op, detail: failure.detail };
  if (wholeSentence.test(failure.detail)) return new RuntimeError(code, `${what}: ${failure.detail}`, fields);
  return new RuntimeError(code, `${what}: cannot execute ${target}: ${errnoText(failure.errno)}`, fields);
}

const codeOfRefusal: Readonly<Record<string, Code>> = {
  ENOENT: "not_found",
  ESRCH: "not_found",
  EEXIST: "already_exists",
  EBUSY: "failed_precondition",
  EINVAL: "invalid_argument",
  ETIMEDOUT: "deadline_exceeded",
  ECANCELED: "canceled",
  EOPNOTSUPP: "unimplemented",
  ENOSYS: "unimplemented",
};

/** A failure without an operation: the shim refused, or could not do it itself. Errno 0: `detail` says everything. */
export function requestFailure(what: string, failure: ShimFailure): RuntimeError {
  const name = errnoNameOf(failure.errno);
  const fields = { errno: failure.errno, errnoName: name, detail: failure.detail };
  if (failure.errno === 0) return new RuntimeError("failed_precondition", `${what}: ${failure.detail}`, fields);
  const code = codeOfRefusal[name] ?? (exhausted.has(name) ? "resource_exhausted" : "internal");
  const detail = failure.detail === "" ? "" : `${failure.detail}: `;
  return new RuntimeError(code, `${what}: ${detail}${errnoText(failure.errno)}`, fields);
}
