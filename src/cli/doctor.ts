import { accessSync, constants, existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { messageOf } from "../lib/errors.ts";
import type { Command, CommandContext } from "./command.ts";
import { json } from "./text.ts";

type Verdict = "ok" | "note" | "missing";

interface Finding {
  readonly what: string;
  readonly verdict: Verdict;
  /** What was found, and for a bad verdict what to do. */
  readonly text: string;
}

type Check = () => Finding | readonly Finding[];

const found = (what: string, verdict: Verdict, text: string): Finding => ({ what, verdict, text });
const least = [5, 15] as const;
const shimName = "caisson-shim";
const builtDirectories = [join(import.meta.dirname, "../../build/native")];

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function kernel(): Finding {
  const [major = 0, minor = 0] = release().split(".").map(Number);
  const enough = major > least[0] || (major === least[0] && minor >= least[1]);
  return enough
    ? found("kernel", "ok", release())
    : found("kernel", "missing", `${release()} is older than ${least.join(".")}: boot a newer one`);
}

function privileges(): readonly Finding[] {
  const uid = process.getuid?.() ?? -1;
  const bounding = BigInt(`0x${/^CapBnd:\s*(\w+)$/m.exec(read("/proc/self/status"))?.[1] ?? "0"}`);
  const needed: readonly (readonly [string, bigint])[] = [
    ["CAP_SYS_ADMIN", 21n],
    ["CAP_NET_ADMIN", 12n],
    ["CAP_SETUID", 7n],
    ["CAP_SYS_CHROOT", 18n],
    ["CAP_MKNOD", 27n],
  ];
  const lacking = needed.filter(([, bit]) => (bounding & (1n << bit)) === 0n).map(([name]) => name);
  return [
    uid === 0 ? found("user", "ok", "root") : found("user", "missing", `uid ${uid}: caissond must run as root`),
    lacking.length === 0
      ? found("capabilities", "ok", "what containers need is there")
      : found("capabilities", "missing", `not in the bounding set: ${lacking.join(", ")}`),
    (bounding & (1n << 24n)) === 0n
      ? found("CAP_SYS_RESOURCE", "note", "not there: hard limits and oom scores of containers are clamped to the daemon's own")
      : found("CAP_SYS_RESOURCE", "ok", "limits and oom scores can be set freely"),
  ];
}

function filesystems(): readonly Finding[] {
  const known = read("/proc/filesystems");
  const needed = ["overlay", "tmpfs", "proc", "sysfs", "devpts", "mqueue"];
  const lacking = needed.filter((name) => !new RegExp(`\\b${name}$`, "m").test(known));
  const rest = lacking.filter((name) => name !== "overlay");
  return [
    lacking.includes("overlay")
      ? found("overlay", "missing", "the kernel does not list it: modprobe overlay")
      : found("overlay", "ok", "the kernel has it"),
    rest.length === 0
      ? found("filesystems", "ok", "proc, sysfs, tmpfs, devpts, mqueue")
      : found("filesystems", "missing", `the kernel lacks ${rest.join(", ")}`),
  ];
}

function cgroups(): Finding {
  const mounts = read("/proc/self/mountinfo");
  const v2 = / - cgroup2 /.test(mounts);
  const v1 = [...mounts.matchAll(/ - cgroup \S+ (\S+)$/gm)].flatMap(([, options = ""]) => options.split(","));
  const needed = ["cpu", "cpuacct", "cpuset", "memory", "pids"];
  const controllers = v1.length > 0 ? v1 : read("/sys/fs/cgroup/cgroup.controllers").trim().split(" ");
  const lacking = needed.filter((name) => !controllers.includes(name) && !(v1.length === 0 && name === "cpuacct"));
  if (!v2 && v1.length === 0) return found("cgroups", "missing", "no hierarchy is mounted at /sys/fs/cgroup");
  const kind = v1.length === 0 ? "v2" : v2 ? "hybrid" : "v1";
  return lacking.length === 0
    ? found("cgroups", "ok", kind)
    : found("cgroups", "missing", `${kind} without ${lacking.join(", ")}: enable them at boot or in cgroup.subtree_control`);
}

function mountNamespace(): Finding {
  try {
    const same = readlinkSync("/proc/self/ns/mnt") === readlinkSync("/proc/1/ns/mnt");
    return same
      ? found("mount namespace", "ok", "the host's")
      : found("mount namespace", "note", "not that of process 1: mounts of containers will not be seen by the host");
  } catch (error) {
    return found("mount namespace", "note", `cannot be compared with that of process 1: ${messageOf(error)}`);
  }
}

function binaries(): Finding {
  const at = builtDirectories.find((directory) => existsSync(join(directory, shimName)));
  return at === undefined
    ? found("native helper", "missing", `${shimName} is not built: run scripts/build`)
    : found("native helper", "ok", join(at, shimName));
}

function cni(): readonly Finding[] {
  const executable = (path: string): boolean => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  };
  const directories = ["/opt/cni/bin", "/usr/lib/cni"];
  const plugins = ["bridge", "host-local", "loopback", "portmap"];
  const lacking = plugins.filter((name) => !directories.some((directory) => executable(join(directory, name))));
  let lists: string[] = [];
  try {
    lists = readdirSync("/etc/cni/net.d").filter((name) => /\.(conflist|conf|json)$/.test(name));
  } catch {
    // Reported below: the directory is missing.
  }
  return [
    lacking.length === 0
      ? found("CNI plugins", "ok", directories.filter((directory) => existsSync(directory)).join(", "))
      : found(
          "CNI plugins",
          "note",
          `${lacking.join(", ")} not in ${directories.join(" or ")}: pods with a network of their own need them`,
        ),
    lists.length > 0
      ? found("CNI configuration", "ok", lists.join(", "))
      : found("CNI configuration", "note", "none in /etc/cni/net.d: only pods with the node's network can run"),
  ];
}

async function daemon({ connection, socket, flags }: CommandContext): Promise<readonly Finding[]> {
  try {
    const c = connection();
    const info = await c.call(c.node, c.node.info, {});
    const { findings } = info.ready
      ? await c.call(c.node, c.node.examine, { checkNetwork: flags.has("network") })
      : { findings: [] };
    return [
      info.ready
        ? found("daemon", "ok", `${info.version}, pid ${info.pid}, at ${socket}`)
        : found("daemon", "note", `pid ${info.pid} is still reading its records back`),
      ...(info.databaseRebuilt === ""
        ? []
        : [found("database", "note", `made anew at the daemon's start: ${info.databaseRebuilt}`)]),
      ...info.limitations.map((text) => found("limitation", "note", text)),
      ...info.leftovers.map((text) => found("leftover", "note", text)),
      ...findings.map(({ what, text }) => found(what, "note", text)),
    ];
  } catch (error) {
    return [found("daemon", "note", messageOf(error))];
  }
}

const checks: readonly Check[] = [kernel, privileges, filesystems, cgroups, mountNamespace, binaries, cni];

export const doctor: Command = {
  name: "doctor",
  arguments: "",
  summary: "check what this machine has and lacks, and what lies around on it",
  details:
    "Changes nothing; things that belong to no record are shown with the remedy. Exit code 2 when something is missing without which no container runs.",
  arity: [0, 0],
  flags: { network: { about: "also let the network's plugins check the attachment of every pod" } },
  async run(context) {
    const findings = [...checks.flatMap((check) => check()), ...(await daemon(context))];
    if (context.json) context.print(json(findings));
    else for (const { what, verdict, text } of findings) context.print(`${verdict.padEnd(7)}  ${what}: ${text}`);
    return findings.some(({ verdict }) => verdict === "missing") ? 2 : 0;
  },
};
