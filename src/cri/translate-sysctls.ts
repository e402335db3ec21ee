/** Which sysctls a pod may set: only those of a namespace that it has for itself. */
import type { PodSpec } from "../core/runtime.ts";
import { invalid, quoted } from "./translate-check.ts";

type Namespaces = Pick<PodSpec, "network" | "ipc" | "uts" | "user">;

const ipcNames = new Set(
  ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"].map((name) => `kernel/${name}`),
);

const longestValue = 4096;

/**
 * Path below /proc/sys. As sysctl(8): the first separator decides; with dots, a slash stands for a dot inside a name
 * ("net.ipv4.conf.eth0/1.forwarding").
 */
export function sysctlPath(key: string): string {
  const first = /[./]/.exec(key)?.[0];
  const path = first === "." ? key.replaceAll(/[./]/g, (c) => (c === "." ? "/" : ".")) : key;
  const parts = path.split("/");
  if (!/^[A-Za-z0-9_.:@/-]+$/.test(key) || parts.some((part) => part === "" || part === "." || part === "..")) {
    throw invalid(`sysctl name ${quoted(key)} is not valid`);
  }
  return path;
}

/** A `+` or a newline in a value was once a way to smuggle in a second sysctl (CVE-2022-0811); no kernel value needs one. */
function checkValue(key: string, value: string): void {
  if (value.length > longestValue || !/^[\x20-\x7e\t]*$/.test(value) || /[+=]/.test(value)) {
    throw invalid(`value ${quoted(value)} of sysctl ${quoted(key)} is not allowed`);
  }
}

function checkAllowed(key: string, path: string, own: Namespaces): void {
  const refuse = (why: string): never => {
    throw invalid(`sysctl ${quoted(key)} is not allowed: ${why}`);
  };
  if (path.startsWith("net/")) {
    if (own.network === "host") refuse("the pod uses the node's network namespace");
  } else if (ipcNames.has(path) || path.startsWith("fs/mqueue/")) {
    if (own.ipc === "host") refuse("the pod uses the node's IPC namespace");
  } else if (path === "kernel/hostname") {
    refuse("use the hostname field");
  } else if (path === "kernel/domainname") {
    if (own.uts === "host") refuse("the pod uses the node's UTS namespace");
  } else if (path.startsWith("user/")) {
    if (own.user === null) refuse("the pod has no user namespace");
  } else {
    refuse("it is not in a separate kernel namespace");
  }
}

/** Checked, with slashes; the administrator's defaults where the pod has a network of its own and does not say otherwise. */
export function resolveSysctls(
  asked: Readonly<Record<string, string>>,
  defaults: Readonly<Record<string, string>>,
  own: Namespaces,
): Record<string, string> {
  const sysctls = new Map<string, string>();
  for (const [key, value] of Object.entries(asked)) {
    const path = sysctlPath(key);
    if (sysctls.has(path)) throw invalid(`sysctl ${quoted(key)} is given twice`);
    checkAllowed(key, path, own);
    checkValue(key, value);
    sysctls.set(path, value);
  }
  if (own.network === "host") return Object.fromEntries(sysctls);
  for (const [key, value] of Object.entries(defaults)) {
    const path = sysctlPath(key);
    // The kernel refuses a range of groups that the user namespace does not map.
    if (path === "net/ipv4/ping_group_range" && own.user !== null) continue;
    if (!sysctls.has(path)) sysctls.set(path, value);
  }
  return Object.fromEntries(sysctls);
}
