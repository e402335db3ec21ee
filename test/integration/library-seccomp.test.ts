/** Seccomp of the library's containers: each action and kind of argument, flags, and the listener of SCMP_ACT_NOTIFY. */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Config, Container, OciSeccomp } from "../../src/core/library/public.ts";
import { initOutput, LibraryPlace, output, shell, until } from "../helpers/library-place.ts";
import { type SeccompAgent, startSeccompAgent } from "../helpers/seccomp-agent.ts";

let place: LibraryPlace;
beforeAll(() => {
  place = new LibraryPlace();
});
afterAll(async () => {
  await place[Symbol.asyncDispose]();
});

async function end(container: Container): Promise<void> {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
}

type Rule = NonNullable<OciSeccomp["syscalls"]>[number];
const allowing = (...syscalls: readonly Rule[]): { seccomp: OciSeccomp } => ({
  seccomp: { defaultAction: "SCMP_ACT_ALLOW", syscalls },
});
const makeDirectory = "mkdir /tmp/made; echo $?";

describe("actions #seccomp-actions", () => {
  it.each<[string, Rule, string]>([
    ["ERRNO with a number", { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO", errnoRet: 122 }, "Disk quota exceeded"],
    ["ERRNO without", { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO" }, "Operation not permitted"],
    ["KILL", { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_KILL" }, "159"],
    ["KILL_THREAD", { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_KILL_THREAD" }, "159"],
    ["KILL_PROCESS", { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_KILL_PROCESS" }, "159"],
    ["TRAP", { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_TRAP" }, "159"],
    [
      "TRACE without a tracer",
      { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_TRACE", errnoRet: 5 },
      "Function not implemented",
    ],
  ])("%s", async (_, rule, expected) => {
    for (const noNewPrivileges of [false, true]) {
      const container = await place.create({ ...allowing(rule), noNewPrivileges });
      expect(await initOutput(container, makeDirectory)).toContain(expected);
      await container.destroy();
    }
  });

  it("LOG lets the call through", async () => {
    const container = await place.create(allowing({ names: ["mkdir", "mkdirat"], action: "SCMP_ACT_LOG" }));
    expect(await initOutput(container, "mkdir /tmp/logged && rmdir /tmp/logged 2>/dev/null; echo fine")).toBe("fine");
    rmSync(join(place.rootfs, "tmp/logged"), { recursive: true, force: true });
    await container.destroy();
  });

  it("a default with a number of its own, and architectures (class-foreign-architecture) #seccomp-architectures #seccomp-actions", async () => {
    const names = [
      "execve",
      "exit_group",
      "write",
      "mmap",
      "brk",
      "arch_prctl",
      "fstat",
      "newfstatat",
      "rt_sigaction",
      "rt_sigprocmask",
    ];
    const more = [
      "setgroups",
      "setresgid",
      "setresuid",
      "capget",
      "capset",
      "prctl",
      "close_range",
      "sendmsg",
      "read",
      "close",
      "munmap",
    ];
    const rest = [
      "set_tid_address",
      "set_robust_list",
      "rseq",
      "prlimit64",
      "readlinkat",
      "readlink",
      "getrandom",
      "mprotect",
      "getuid",
      "uname",
    ];
    const seccomp: OciSeccomp = {
      defaultAction: "SCMP_ACT_ERRNO",
      defaultErrnoRet: 95,
      architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
      flags: ["SECCOMP_FILTER_FLAG_LOG"],
      syscalls: [{ names: [...names, ...more, ...rest], action: "SCMP_ACT_ALLOW" }],
    };
    const container = await place.create({ seccomp, noNewPrivileges: true });
    expect(await initOutput(container, "", { args: ["/bin/cat", "/etc/passwd"] })).toContain("Operation not supported");
    await container.destroy();
  });
});

describe("arguments #seccomp-arguments", () => {
  // dd's bs is the third argument of read: nothing else reads exactly that much.
  const reading = (bytes: number) =>
    `dd if=/dev/zero of=/dev/null bs=${bytes} count=1 2>&1 | grep -q 'not permitted' && echo refused || echo read`;
  it.each<[string, Omit<NonNullable<Rule["args"]>[number], "index">, number[], number[]]>([
    ["EQ", { op: "SCMP_CMP_EQ", value: 4321 }, [4321], [4320, 4322]],
    ["GE", { op: "SCMP_CMP_GE", value: 90_000 }, [90_000, 90_001], [89_999]],
    ["GT", { op: "SCMP_CMP_GT", value: 90_000 }, [90_001], [90_000]],
    ["MASKED_EQ", { op: "SCMP_CMP_MASKED_EQ", value: 0xf_0000, valueTwo: 0x3_0000 }, [0x3_0001], [0x4_0001]],
  ])("%s", async (_, condition, refused, allowed) => {
    const args = [{ index: 2, ...condition }];
    const container = await place.sleeping(allowing({ names: ["read"], action: "SCMP_ACT_ERRNO", args }));
    for (const bytes of refused) expect(await output(container, reading(bytes))).toBe("refused");
    for (const bytes of allowed) expect(await output(container, reading(bytes))).toBe("read");
    await end(container);
  });

  it("NE, LT and LE", async () => {
    const kill = (op: "SCMP_CMP_NE" | "SCMP_CMP_LT" | "SCMP_CMP_LE", value: number) =>
      allowing({ names: ["kill"], action: "SCMP_ACT_ERRNO", args: [{ index: 1, value, op }] });
    const signals = async (changes: Partial<Config>) => {
      const container = await place.sleeping(changes);
      const script = "for s in 0 18 23; do kill -$s $$ 2>/dev/null && echo $s; done; true";
      const seen = (await output(container, script)).split("\n");
      await end(container);
      return seen;
    };
    expect(await signals(kill("SCMP_CMP_NE", 18))).toEqual(["18"]);
    expect(await signals(kill("SCMP_CMP_LT", 18))).toEqual(["18", "23"]);
    expect(await signals(kill("SCMP_CMP_LE", 18))).toEqual(["23"]);
  });
});

describe("a listener #seccomp-notify", () => {
  let agent: SeccompAgent;
  let path: string;
  beforeAll(async () => {
    path = join(place.top, "agent.sock");
    agent = await startSeccompAgent(path);
  });
  afterAll(async () => {
    await agent[Symbol.asyncDispose]();
  });
  const handed = () => agent.handed();
  const notifying = (names: readonly string[]): { seccomp: OciSeccomp } => ({
    seccomp: {
      defaultAction: "SCMP_ACT_ALLOW",
      syscalls: [{ names, action: "SCMP_ACT_NOTIFY" }],
      listenerPath: path,
      listenerMetadata: "some words",
    },
  });

  it.each([
    ["with no_new_privs", { noNewPrivileges: true }],
    ["without", { noNewPrivileges: false }],
    [
      "in a user namespace",
      {
        namespaces: (["mnt", "uts", "ipc", "pid", "net", "user"] as const).map((type) => ({ type })),
        uidMappings: [{ containerID: 0, hostID: 200_000, size: 65_536 }],
        gidMappings: [{ containerID: 0, hostID: 200_000, size: 65_536 }],
      },
    ],
  ] as const)("gets the descriptor, the state and the metadata, and decides: %s", async (_, changes) => {
    const before = handed().length;
    const container = await place.create({
      ...changes,
      ...notifying(["mkdir", "mkdirat"]),
      labels: { bundle: "/b", key: "value" },
    });
    const first = shell("exec sleep 1000");
    await container.start(first);
    await until(() => handed().length === before + 1);
    const state = {
      ociVersion: "1.3.0",
      id: container.id,
      status: "creating",
      pid: first.pid,
      bundle: "/b",
      annotations: { key: "value" },
    };
    const message = { ociVersion: "1.3.0", fds: ["seccompFd"], pid: first.pid, metadata: "some words", state };
    expect(handed().at(-1)).toEqual(message);
    await container.exec();
    expect(await output(container, makeDirectory.replace("mkdir", "mkdir 2>&1"))).toContain("Disk quota exceeded");
    await until(() => handed().length === before + 2);
    expect(handed().at(-1)).toMatchObject({ state: { status: "running", pid: first.pid } });
    expect(readFileSync(`/proc/${first.pid}/status`, "utf8")).toMatch(/Seccomp:\s+2/);
    expect(await output(container, "ls /proc/self/fd | wc -l")).toBe("4");
    // The agent may take its time, and must not be heard in the next case.
    await until(() => handed().length === before + 3);
    await end(container);
  });

  it("also decides about the calls of the set-up itself", async () => {
    const container = await place.sleeping({
      noNewPrivileges: false,
      ...notifying(["setresuid", "prctl", "close_range", "sendmsg"]),
    });
    expect(await output(container, "echo fine")).toBe("fine");
    await end(container);
  });

  it("is needed, and must be there", async () => {
    const seccomp: OciSeccomp = { ...notifying(["mkdir"]).seccomp, listenerPath: join(place.top, "nobody.sock") };
    const container = await place.create({ seccomp });
    await expect(container.run(shell("true"))).rejects.toThrow(/seccomp listener .*nobody\.sock/);
    await container.destroy();
    const { listenerPath: _, ...without } = seccomp;
    await expect(place.create({ seccomp: without })).rejects.toThrow("needs an absolute listenerPath");
    await expect(place.create({ seccomp: { ...seccomp, syscalls: [] } })).rejects.toThrow("of no use without SCMP_ACT_NOTIFY");
    for (const bad of [{ ...notifying(["write"]).seccomp }, { ...seccomp, defaultAction: "SCMP_ACT_NOTIFY" as const }]) {
      const refused = await place.create({ seccomp: bad });
      await expect(refused.run(shell("true"))).rejects.toThrow("SCMP_ACT_NOTIFY cannot be used");
      await refused.destroy();
    }
  });
});
