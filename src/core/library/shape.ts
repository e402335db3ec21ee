/** Which namespaces a container makes, joins and shares, in the kernel's terms. */
import { closeSync, openSync, readlinkSync } from "node:fs";
import { RuntimeError, wrapError } from "../../lib/errors.ts";
import { nsKind } from "../plan-schema.ts";
import { readStartTicks } from "../shim/process-handle.ts";
import type { Config, NamespaceType } from "./config.ts";
import { isOwnNamespace } from "./machine-facts.ts";

export type NamespaceUse = "new" | "joined" | "shared";
export type Shape = Readonly<Record<NamespaceType, NamespaceUse>>;

/** Before anything of the container exists: a path may lead to the caller's own namespace, which nobody can or need join. */
export function shapeOf(config: Config): Shape {
  const use = (type: NamespaceType): NamespaceUse => {
    const asked = config.namespaces?.find((namespace) => namespace.type === type);
    if (asked === undefined) return "shared";
    if (asked.path === undefined) return "new";
    return isOwnNamespace(type, asked.path) ? "shared" : "joined";
  };
  return {
    user: use("user"),
    ipc: use("ipc"),
    uts: use("uts"),
    net: use("net"),
    pid: use("pid"),
    mnt: use("mnt"),
    cgroup: use("cgroup"),
    time: use("time"),
  };
}

/** What a further process of the container has to join. */
export function kindsToJoin(shape: Shape): number {
  return kindsThat(shape, (use) => use !== "shared");
}

export function kindsThat(shape: Shape, wanted: (use: NamespaceUse) => boolean): number {
  return Object.entries(shape).reduce((bits, [type, use]) => (wanted(use) ? bits | nsKind[type as NamespaceType] : bits), 0);
}

/** Descriptors of the namespaces that are joined, held until the container is there. */
export class JoinedNamespaces implements Disposable {
  readonly fds = new Map<NamespaceType, number>();

  /** @throws RuntimeError invalid_argument when a path leads to no namespace of that type. */
  static open(config: Config, shape: Shape): JoinedNamespaces {
    const joined = new JoinedNamespaces();
    try {
      for (const { type, path, process } of config.namespaces ?? []) {
        if (path === undefined || shape[type] !== "joined") continue;
        joined.fds.set(type, openNamespace(type, path));
        // After the open: from here on the descriptor holds the namespace.
        if (process !== undefined && Number(readStartTicks(process.pid) ?? -1n) !== process.startTicks)
          throw new RuntimeError(
            "failed_precondition",
            `process ${process.pid}, whose ${type} namespace is to be joined, has ended`,
          );
      }
      return joined;
    } catch (error) {
      joined[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    for (const fd of this.fds.values()) closeSync(fd);
    this.fds.clear();
  }
}

function openNamespace(type: NamespaceType, path: string): number {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (error) {
    const failed = wrapError(`the ${type} namespace ${path} cannot be opened`, error);
    throw new RuntimeError("invalid_argument", failed.message, { path }, error);
  }
  const found = readlinkSync(`/proc/self/fd/${fd}`);
  if (found.startsWith(`${type}:[`)) return fd;
  closeSync(fd);
  throw new RuntimeError("invalid_argument", `${path} is no ${type} namespace`, { path });
}
