/** What this node's SELinux policy says about containers. */
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { errnoName } from "../../lib/errors.ts";
import { findSecurityModules } from "./security-modules.ts";

export interface SelinuxPolicy {
  /** Label of a container's processes where nothing else is asked for. */
  readonly process: string;
  /** Label of its files. */
  readonly file: string;
  /** Whether the loaded policy knows that label. */
  readonly knows: (label: string) => boolean;
}

const configFile = "/etc/selinux/config";
const contextFile = "/sys/fs/selinux/context";
const usual = { process: "system_u:system_r:container_t:s0", file: "system_u:object_r:container_file_t:s0" };

/** undefined: SELinux is off. Defaults are the policy's own, where it has a file of them (lxc_contexts). */
export function findSelinuxPolicy(): SelinuxPolicy | undefined {
  if (!findSecurityModules().selinux) return undefined;
  const type = /^SELINUXTYPE=(\w+)/m.exec(textOf(configFile))?.[1] ?? "targeted";
  const text = textOf(`/etc/selinux/${type}/contexts/lxc_contexts`);
  const said = (name: string) => new RegExp(`^${name}\\s*=\\s*"([^"]+)"`, "m").exec(text)?.[1];
  return { process: said("process") ?? usual.process, file: said("file") ?? usual.file, knows: isKnown };
}

function isKnown(label: string): boolean {
  const fd = openSync(contextFile, "r+");
  try {
    writeSync(fd, label);
    return true;
  } catch (error) {
    if (errnoName(error) === "EINVAL") return false;
    throw error;
  } finally {
    closeSync(fd);
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (errnoName(error) === undefined) throw error;
    return "";
  }
}
