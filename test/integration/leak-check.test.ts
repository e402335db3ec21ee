/** The leak checker is worth something only if it sees each kind of thing: one of each is left behind here on purpose. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { CoreNode } from "../helpers/core-pod.ts";
import { expectNoLeaks, type InventoryOptions, newThings, takeInventory } from "../helpers/leak-check.ts";

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "caisson-leaks-"));
});
afterAll(() => rmSync(scratch, { recursive: true }));

const run = (command: string, ...args: string[]): string => execFileSync(command, args, { encoding: "utf8", stdio: "pipe" });
const name = `caisson-leak${process.pid % 10_000}`;
const plants = { cgroup: "", child: undefined as ChildProcess | undefined, fd: -1 };

/** Runs a script that says so when it has done its part, and stays. */
async function stay(command: string, ...args: string[]): Promise<void> {
  const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
  plants.child = child;
  await new Promise((resolve) => child.stdout?.once("data", resolve));
}
async function end(): Promise<void> {
  const gone = new Promise((resolve) => plants.child?.once("exit", resolve));
  plants.child?.kill("SIGKILL");
  await gone;
}

/** A child makes the namespace and dies; its parent has opened it before. */
const heldNamespace = `
import ctypes, os, sys
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    ctypes.CDLL(None).unshare(0x02000000)
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    os._exit(0)
os.read(ready[0], 1)
held = os.open(f"/proc/{child}/ns/cgroup", os.O_RDONLY)
os.write(go[1], b"x")
os.waitpid(child, 0)
print("made", flush=True)
sys.stdin.read()
`;
const zombie = `
import os, sys
if os.fork() == 0:
    os._exit(0)
os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
print("made", flush=True)
sys.stdin.read()
`;

interface Plant {
  readonly what: string;
  readonly make: () => unknown;
  readonly clear: () => unknown;
  readonly seen: () => RegExp;
}
const plan: readonly Plant[] = [
  {
    what: "a mount",
    make: () => {
      mkdirSync(join(scratch, "mount"));
      run("mount", "-t", "tmpfs", "tmpfs", join(scratch, "mount"));
    },
    clear: () => run("umount", join(scratch, "mount")),
    seen: () => new RegExp(`^mounts: .*${scratch}/mount`),
  },
  {
    what: "a pinned network namespace",
    make: () => run("ip", "netns", "add", name),
    clear: () => run("ip", "netns", "delete", name),
    seen: () => new RegExp(`^pinned network namespaces: ${name}$`),
  },
  {
    what: "a namespace that lives by a process",
    make: () => stay("unshare", "--time", "sh", "-c", "echo made; exec cat"),
    clear: end,
    seen: () => /^namespaces: time:\[/,
  },
  {
    what: "a namespace that lives by a descriptor alone",
    make: () => stay("python3", "-c", heldNamespace),
    clear: end,
    seen: () => /^namespaces: cgroup:\[/,
  },
  {
    what: "a link",
    make: () => run("ip", "link", "add", name.slice(0, 15), "type", "bridge"),
    clear: () => run("ip", "link", "delete", name.slice(0, 15)),
    seen: () => new RegExp(`^links: ${name.slice(0, 15)}$`),
  },
  {
    what: "a rule of iptables",
    make: () => run("iptables", "-I", "INPUT", "-s", "198.51.100.7", "-m", "comment", "--comment", name, "-j", "ACCEPT"),
    clear: () => run("iptables", "-D", "INPUT", "-s", "198.51.100.7", "-m", "comment", "--comment", name, "-j", "ACCEPT"),
    seen: () => new RegExp(`^iptables rules: .*${name}`),
  },
  {
    what: "a rule of ip6tables",
    make: () => run("ip6tables", "-I", "INPUT", "-s", "2001:db8::7", "-m", "comment", "--comment", name, "-j", "ACCEPT"),
    clear: () => run("ip6tables", "-D", "INPUT", "-s", "2001:db8::7", "-m", "comment", "--comment", name, "-j", "ACCEPT"),
    seen: () => new RegExp(`^ip6tables rules: .*${name}`),
  },
  {
    what: "a rule of nftables",
    make: () =>
      run("nft", `add table ip ${name}; add chain ip ${name} kept; add rule ip ${name} kept ip saddr 198.51.100.8 accept`),
    clear: () => run("nft", "delete", "table", "ip", name),
    seen: () => /^nftables rules: .*198\.51\.100\.8/,
  },
  {
    what: "a cgroup",
    make: () => {
      const [hierarchy = ""] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].filter((path) => existsSync(`${path}/cgroup.procs`));
      plants.cgroup = join(hierarchy, name);
      mkdirSync(plants.cgroup);
    },
    clear: () => rmdirSync(plants.cgroup),
    seen: () => new RegExp(`^cgroups: ${plants.cgroup}$`),
  },
  {
    what: "a process with a name of ours",
    make: () => stay("sh", "-c", "printf caisson-shim > /proc/$$/comm; echo made; read x"),
    clear: end,
    seen: () => /^processes: \d+ caisson-shim$/,
  },
  {
    what: "a daemon",
    make: () => stay("sh", "-c", "echo made; read x", "/dist/main.js"),
    clear: end,
    seen: () => /^processes: daemon .*main\.js/,
  },
  {
    what: "a zombie",
    make: () => stay("python3", "-c", zombie, "caisson"),
    clear: end,
    seen: () => /^processes: \d+ python3 \(zombie\)$/,
  },
  {
    what: "a temporary directory",
    make: () => mkdirSync(join(tmpdir(), name)),
    clear: () => rmdirSync(join(tmpdir(), name)),
    seen: () => new RegExp(`^temporary directories: ${name}$`),
  },
];

describe("the leak checker sees", () => {
  it.each(plan)("$what", async ({ make, clear, seen }) => {
    const before = takeInventory();
    await make();
    const found = newThings(before, takeInventory()).filter((line) => seen().test(line));
    await clear();
    expect(found).not.toEqual([]);
    // Namespaces and links go asynchronously.
    await expect
      .poll(() => newThings(before, takeInventory()).filter((line) => found.includes(line)), { timeout: 10_000 })
      .toEqual([]);
  });

  it("a file in a directory that the test names: an address, a layer, a record", async () => {
    const options = { directories: [join(scratch, "ipam")] };
    const before = takeInventory(options);
    mkdirSync(join(scratch, "ipam/net"), { recursive: true });
    writeFileSync(join(scratch, "ipam/net/10.1.2.3"), "");
    await refusesWith(before, options, /files below .*ipam: .*net\/10\.1\.2\.3/);
  });

  it("a descriptor of a process that the test names, and no fewer of them", async () => {
    const options = { pids: [process.pid] };
    const before = takeInventory(options);
    const fds = [openSync("/dev/zero", "r"), openSync("/dev/zero", "r")];
    await refusesWith(before, options, /descriptors of \d+: \/dev\/zero 2/);
    const more = takeInventory(options);
    for (const fd of fds) closeSync(fd);
    await expectNoLeaks(more, options, 0);
  });

  it("a descriptor of a shim that lives on", async () => {
    await using node = await CoreNode.start();
    const { pod, spec } = await node.pod();
    const before = takeInventory();
    const made = await node.run(pod, spec);
    expect(newThings(before, takeInventory()).join("\n")).toMatch(/^descriptors of \d+: anon_inode:\[pidfd\] \d+$/m);
    await pod.signal(made.id, 9, "all");
  });
});

async function refusesWith(before: ReturnType<typeof takeInventory>, options: InventoryOptions, text: RegExp): Promise<void> {
  await expect(expectNoLeaks(before, options, 0)).rejects.toThrow(text);
}
