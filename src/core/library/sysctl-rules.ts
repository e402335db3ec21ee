/** Which sysctls belong to a namespace of the container (libcontainer 3.1). */
import { RuntimeError } from "../../lib/errors.ts";
import type { NamespaceType } from "./config.ts";

const ipcKeys = new Set(
  ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"].map((name) => `kernel/${name}`),
);

export interface SysctlScope {
  /** In the config at all, new or joined. */
  readonly has: (type: NamespaceType) => boolean;
  /** The network namespace is the caller's own, under whatever path. */
  readonly netIsHosts: boolean;
}

/** `path` is below /proc/sys, with slashes. */
export function checkSysctl(path: string, { has, netIsHosts }: SysctlScope): void {
  const refuse = (reason: string) => new RuntimeError("invalid_argument", `sysctl ${JSON.stringify(path)} ${reason}`);
  const name = path.split("/");
  if (name.some((part) => part === "" || part === "." || part === "..")) throw refuse("is no name of a sysctl");
  if (ipcKeys.has(path) || path.startsWith("fs/mqueue/")) {
    if (!has("ipc")) throw refuse("is not allowed in the hosts ipc namespace");
  } else if (path.startsWith("net/")) {
    if (!has("net") || netIsHosts) throw refuse("not allowed in host network namespace");
  } else if (path === "kernel/domainname") {
    if (!has("uts")) throw refuse("is not allowed in the hosts UTS namespace");
  } else if (path === "kernel/hostname") throw refuse("conflicts with the field hostname: set that");
  else if (path.startsWith("user/")) {
    if (!has("user")) throw refuse("is not allowed in the hosts user namespace");
  } else throw refuse("is not in a separate kernel namespace");
}
