import { existsSync, realpathSync, statSync } from "node:fs";
import { errnoName } from "../../lib/errors.ts";
import { mountedResctrl } from "../resctrl.ts";
import type { NamespaceType } from "./config.ts";
import type { MachineFacts } from "./validate.ts";

const absent = new Set(["ENOENT", "ENOTDIR", "ELOOP", "EACCES"]);

function unlessAbsent<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    if (absent.has(errnoName(error) ?? "")) return undefined;
    throw error;
  }
}

/** Asked of the running system, at the moment of the question. */
export function machineFacts(cgroupVersion: MachineFacts["cgroupVersion"]): MachineFacts {
  return {
    cgroupVersion,
    realDirectory: (path) => unlessAbsent(() => (statSync(path).isDirectory() ? realpathSync(path) : undefined)),
    isOwnNamespace,
    resctrl: mountedResctrl,
    hasSystemd: () => existsSync("/run/systemd/system"),
    hasNamespace: (type) => existsSync(`/proc/self/ns/${type}`),
  };
}

/** Namespaces are the same where device and inode are. */
export function isOwnNamespace(type: NamespaceType, path: string): boolean {
  const [theirs, ours] = [path, `/proc/self/ns/${type}`].map((file) => unlessAbsent(() => statSync(file, { bigint: true })));
  return theirs !== undefined && theirs.ino === ours?.ino && theirs.dev === ours.dev;
}
