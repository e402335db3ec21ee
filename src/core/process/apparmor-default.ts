/** The AppArmor profile of containers that ask for the runtime's own, and which profiles the kernel has. */
import { existsSync, readFileSync } from "node:fs";
import { errnoName } from "../../lib/errors.ts";
import { runHostProgram } from "../../native/host-program.ts";
import { findSecurityModules } from "./security-modules.ts";

export const defaultApparmorProfile = "caisson-default";

/**
 * Everything that files and capabilities allow, but nothing that changes the machine through procfs, sysfs or mounts. Signals and traces
 * stay among containers; the runtime itself is unconfined. attach_disconnected: volumes and descriptors have no path in the container.
 */
const profile = `profile ${defaultApparmorProfile} flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  capability,
  umount,
  deny mount,
  deny pivot_root,
  signal (receive) peer=unconfined,
  signal (send, receive) peer=${defaultApparmorProfile},
  ptrace (read, trace, readby, tracedby) peer=${defaultApparmorProfile},

  deny /proc/{kcore,kmem,mem,sysrq-trigger,timer_list,acpi/**,bus/**,fs/**,irq/**,scsi/**} wklx,
  deny /proc/{kcore,kmem,mem} r,
  deny /proc/sys/{abi,debug,dev,vm}/** wklx,
  deny /proc/sys/fs/{binfmt_misc/**,suid_dumpable,protected_*,file-max,nr_open} wklx,
  deny /proc/sys/kernel/{core_*,modprobe,modules_disabled,hotplug,panic*,sysrq,kexec_*,kptr_restrict,dmesg_restrict,randomize_va_space,unprivileged_*,usermodehelper/**,yama/**} wklx,
  deny /sys/{block,bus,class,dev,devices,firmware,hypervisor,kernel,module,power}/** wklx,
  deny /sys/fs/[^c]** wklx,
}
`;

const parsers = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];
const profilesFile = "/sys/kernel/security/apparmor/profiles";
const loadDeadlineMs = 20_000;
const maxMessageBytes = 4096;

/** Names of the loaded profiles, asked of the kernel each time. Empty where securityfs is not mounted. */
export function loadedApparmorProfiles(): ReadonlySet<string> {
  try {
    const lines = readFileSync(profilesFile, "utf8").split("\n");
    return new Set(lines.map((line) => line.replace(/ \([a-z]+\)$/, "")).filter((name) => name !== ""));
  } catch (error) {
    if (errnoName(error) === undefined) throw error;
    return new Set();
  }
}

/** Loads the default profile where the kernel has AppArmor. Sentences for the log and Status when that cannot be. */
export async function loadDefaultProfile(): Promise<readonly string[]> {
  if (!findSecurityModules().apparmor) return [];
  const path = parsers.find((candidate) => existsSync(candidate));
  const without = "containers run without a profile unless they name one";
  if (path === undefined) return [`the kernel has AppArmor, but apparmor_parser is not installed: ${without}`];
  const program = {
    path,
    // Replaced, so that a newer daemon's profile counts; never from a cache of an older text.
    argv: ["apparmor_parser", "--replace", "--skip-cache"],
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    stdin: Buffer.from(profile),
    maxStdoutBytes: maxMessageBytes,
    maxStderrBytes: maxMessageBytes,
    lock: null,
  };
  const { exit, stderr } = await runHostProgram(program, AbortSignal.timeout(loadDeadlineMs));
  if (exit.code === 0) return [];
  return [`apparmor_parser does not load the profile ${defaultApparmorProfile} (${stderr.toString().trim()}): ${without}`];
}
