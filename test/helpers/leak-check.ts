/**
 * Takes stock of everything that a container runtime can leave behind on the machine, before and after a test, and says what is new.
 * What belongs to others (the shell that runs the tests, the kernel's own threads) is the same before and after.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";

/** One kind of thing to its sorted names. */
export type Inventory = ReadonlyMap<string, ReadonlySet<string>>;

export interface InventoryOptions {
  /** Directories whose whole content is listed: IPAM files, layers, state. */
  readonly directories?: readonly string[];
  /** Processes whose open descriptors are counted by kind, such as the daemon. */
  readonly pids?: readonly number[];
}

const text = (path: string): string => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
};
const names = (path: string): string[] => {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
};
const link = (path: string): string => {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
};
const pids = (): number[] =>
  names("/proc")
    .map(Number)
    .filter((pid) => pid > 0);

const isShim = (pid: number): boolean => text(`/proc/${pid}/comm`).startsWith("caisson");

/** Kernel threads and their children come and go by themselves. */
const isKernelThread = (pid: number): boolean => text(`/proc/${pid}/cmdline`) === "" && !/\) Z /.test(text(`/proc/${pid}/stat`));

function processes(): Set<string> {
  const found = new Set<string>();
  for (const pid of pids()) {
    const stat = text(`/proc/${pid}/stat`);
    if (stat === "" || isKernelThread(pid)) continue;
    const comm = stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")"));
    const [state = "", parent = ""] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // What we leave is a daemon, a helper, a process in one of our cgroups, or an unreaped child of either; the rest is the machine's own.
    const command = text(`/proc/${pid}/cmdline`).split("\0").join(" ");
    if (command.includes("/dist/main.js ")) {
      // By its arguments, which name its directories: a test may end one and start it again.
      found.add(`daemon ${command}`);
      continue;
    }
    const ours = isShim(pid) || /\/caisson-/.test(text(`/proc/${pid}/cgroup`));
    const zombie = state === "Z" && /caisson/.test(text(`/proc/${parent}/cmdline`));
    if (!ours && !zombie) continue;
    found.add(`${pid} ${comm}${state === "Z" ? " (zombie)" : ""}`);
  }
  return found;
}

function namespaces(): Set<string> {
  const found = new Set<string>();
  for (const pid of pids()) {
    if (isKernelThread(pid)) continue;
    for (const kind of names(`/proc/${pid}/ns`)) found.add(link(`/proc/${pid}/ns/${kind}`));
    for (const fd of names(`/proc/${pid}/fd`)) {
      const target = link(`/proc/${pid}/fd/${fd}`);
      if (/^(net|mnt|ipc|uts|pid|user|cgroup|time):\[/.test(target)) found.add(target);
    }
  }
  found.delete("");
  return found;
}

function cgroups(): Set<string> {
  const found = new Set<string>();
  const walk = (path: string): void => {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      if (!entry.isDirectory() || entry.isSymbolicLink()) continue;
      const below = join(path, entry.name);
      if (below.includes("process_api")) continue;
      found.add(below);
      try {
        walk(below);
      } catch {
        // A cgroup that vanishes while it is being read is none that stays.
      }
    }
  };
  if (existsSync("/sys/fs/cgroup")) walk("/sys/fs/cgroup");
  return found;
}

function tree(directory: string): Set<string> {
  const found = new Set<string>();
  for (const entry of existsSync(directory) ? readdirSync(directory, { recursive: true }) : [])
    found.add(`${directory}/${entry}`);
  return found;
}

const run = (command: string, ...args: string[]): Set<string> => {
  try {
    const out = execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    return new Set(
      out
        .split("\n")
        // Tables and built-in chains appear when they are first listed; rules and chains of somebody's own are what counts.
        .filter((line) => line !== "" && !/^(#|\*|COMMIT|:[A-Z]+ |table |\tchain [A-Z]+ |\t\ttype |\t?\})/.test(line))
        // The portmap plugin makes these chains once, with its first host port, and never removes them.
        .filter((line) => !line.includes("CNI-HOSTPORT-") && !/0x0*2000\b|"CNI portfwd/.test(line))
        .map((line) => line.replace(/\[\d+:\d+\]/, "").replace(/counter packets \d+ bytes \d+/, "counter")),
    );
  } catch {
    return new Set();
  }
};

/** Descriptors by kind, without numbers that differ from run to run; the second of a kind is "KIND 2". */
function descriptors(pid: number): Set<string> {
  const found = new Set<string>();
  for (const fd of names(`/proc/${pid}/fd`)) {
    const target = link(`/proc/${pid}/fd/${fd}`).replace(/:\[\d+\]/, "");
    let count = 1;
    while (found.has(`${target} ${count}`)) count++;
    if (target !== "") found.add(`${target} ${count}`);
  }
  return found;
}

export function takeInventory(options: InventoryOptions = {}): Inventory {
  const mounts = text("/proc/self/mountinfo")
    .split("\n")
    // `ip netns add` makes the directory a shared mount, once.
    .filter((line) => line !== "" && !line.includes(" /run/netns /run/netns "));
  const inventory = new Map<string, ReadonlySet<string>>([
    ["mounts", new Set(mounts.map((line) => line.split(" ").slice(2, 5).join(" ")))],
    ["pinned network namespaces", new Set(names("/run/netns"))],
    ["namespaces", namespaces()],
    ["links", new Set(names("/sys/class/net"))],
    ["iptables rules", run("iptables-save")],
    ["ip6tables rules", run("ip6tables-save")],
    ["nftables rules", run("nft", "list", "ruleset")],
    ["cgroups", cgroups()],
    ["processes", processes()],
    ["files below /var/lib/cni", tree("/var/lib/cni")],
    ["temporary directories", new Set(names("/tmp").filter((name) => name.startsWith("caisson")))],
  ]);
  for (const directory of options.directories ?? []) inventory.set(`files below ${directory}`, tree(directory));
  for (const pid of [...(options.pids ?? []), ...pids().filter(isShim)]) inventory.set(`descriptors of ${pid}`, descriptors(pid));
  return inventory;
}

/** What `after` has and `before` had not, as lines "kind: name". Descriptors only of processes that lived at both times. */
export function newThings(before: Inventory, after: Inventory): string[] {
  const lines: string[] = [];
  for (const [kind, found] of after) {
    const known = before.get(kind);
    if (known === undefined && kind.startsWith("descriptors of ")) continue;
    for (const name of found) if (known?.has(name) !== true) lines.push(`${kind}: ${name}`);
  }
  return lines;
}

/** While others use the machine for the same (CAISSON_SHARED_MACHINE=1), only what the test names is surely its own. */
const alone = process.env.CAISSON_SHARED_MACHINE === undefined;
function isOwn(line: string, { directories = [], pids = [] }: InventoryOptions): boolean {
  const named = [...directories.map((path) => `files below ${path}: `), ...pids.map((pid) => `descriptors of ${pid}: `)];
  return alone || named.some((start) => line.startsWith(start));
}

/**
 * Waits until nothing new is left: network namespaces and cgroups go asynchronously in the kernel. Throws with the list of what
 * still is there after `patienceMs`.
 */
export async function expectNoLeaks(before: Inventory, options: InventoryOptions = {}, patienceMs = 5000): Promise<void> {
  const until = Date.now() + patienceMs;
  for (;;) {
    const left = newThings(before, takeInventory(options)).filter((line) => isOwn(line, options));
    if (left.length === 0) return;
    if (Date.now() > until) throw new Error(`left behind:\n  ${left.join("\n  ")}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
