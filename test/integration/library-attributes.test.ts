/** What processes of the library's containers keep over execve: scheduling, affinity, personality, memory policy, limits, ids. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Config, Container, fromOciSpec, Process, type ProcessSpec } from "../../src/core/library/public.ts";
import { initOutput, LibraryPlace, output, shell } from "../helpers/library-place.ts";

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

const pidOf = (container: Container): number => container.state().init_process_pid;
/** Fields of /proc/PID/stat behind the name, numbered as proc(5) does. */
const stat = (pid: number, field: number) =>
  Number(readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ")[field - 3]);
const [nice, policy] = [19, 41];
const ionice = (pid: number) => execFileSync("ionice", ["-p", String(pid)], { encoding: "utf8" }).trim();

/** Runs a sleeping first process and a sleeping further one, and shows both pids. */
async function both(
  changes: Partial<Config>,
  look: (pid: number) => unknown,
  spec: Partial<ProcessSpec> = {},
): Promise<unknown[]> {
  const container = await place.sleeping(changes);
  const further = shell("exec sleep 1000", spec);
  await container.exec(further);
  const seen = [look(pidOf(container)), look(further.pid)];
  await end(container);
  return seen;
}

describe("scheduling", () => {
  it("gives the policy, nice value and I/O priority to the first process and to further ones #scheduler #io-priority", async () => {
    const changes: Partial<Config> = {
      scheduler: { policy: "SCHED_BATCH", nice: 7 },
      ioPriority: { class: "IOPRIO_CLASS_BE", priority: 6 },
    };
    const look = (pid: number) => [stat(pid, policy), stat(pid, nice), ionice(pid)];
    const wanted = [3, 7, "best-effort: prio 6"];
    expect(await both(changes, look)).toEqual([wanted, wanted]);
  });

  it("prefers what the process itself says", async () => {
    const changes: Partial<Config> = { scheduler: { policy: "SCHED_IDLE" }, ioPriority: { class: "IOPRIO_CLASS_IDLE" } };
    const spec: Partial<ProcessSpec> = { scheduler: { policy: "SCHED_OTHER", nice: -3 } };
    expect(await both(changes, (pid) => [stat(pid, policy), stat(pid, nice), ionice(pid)], spec)).toEqual([
      [5, 0, "idle"],
      [0, -3, "idle"],
    ]);
  });

  it("gives a deadline and the reset at forks to a first process that never forks, and refuses them to others #scheduler", async () => {
    const scheduler = { policy: "SCHED_DEADLINE", runtime: 1_000_000, deadline: 100_000_000, period: 100_000_000 };
    const container = await place.sleeping({}, { scheduler, args: ["sleep", "1000"] });
    expect(stat(pidOf(container), policy)).toBe(6);
    await expect(container.exec(shell("true", { scheduler }))).rejects.toThrow("would not survive the fork");
    await end(container);
  });

  it.each([
    [{ policy: "SCHED_WRONG" }, 'scheduler.policy "SCHED_WRONG" is not known'],
    [{ policy: "SCHED_OTHER", nice: 20 }, "scheduler.nice 20 is not in the range"],
    [{ policy: "SCHED_FIFO", nice: 1 }, "scheduler.nice is for SCHED_OTHER"],
    [{ policy: "SCHED_OTHER", priority: 1 }, "scheduler.priority is for SCHED_FIFO"],
    [{ policy: "SCHED_RR", priority: 1, runtime: 5 }, "are for SCHED_DEADLINE"],
    [{ policy: "SCHED_OTHER", flags: ["WRONG"] }, 'scheduler.flags "WRONG" is not known'],
  ])("refuses %j", async (scheduler, message) => {
    const container = await place.create({ scheduler });
    await expect(container.run(shell("true"))).rejects.toThrow(message);
    await container.destroy();
  });
});

describe("affinity", () => {
  it("is that of further processes only, the final list as the last word #affinity", async () => {
    const execCpuAffinity = { initial: "0", final: "1" };
    const look = (pid: number) => /Cpus_allowed_list:\s*(.*)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    const all = look(process.pid);
    expect(await both({ execCpuAffinity }, look)).toEqual([all, "1"]);
    expect(await both({ execCpuAffinity }, look, { execCpuAffinity: { initial: "0" } })).toEqual([all, "0"]);
    expect(await both({}, look)).toEqual([all, all]);
  });

  it("refuses what is no list", async () => {
    const container = await place.sleeping();
    for (const initial of ["a", "3-1", "1,,2", "0-99999"]) {
      await expect(container.exec(shell("true", { execCpuAffinity: { initial } }))).rejects.toThrow("is not a list of numbers");
    }
    await end(container);
  });
});

describe("personality and memory policy", () => {
  it("are those of the container, for every process #personality #memory-policy", async () => {
    const changes: Partial<Config> = { personality: { domain: "LINUX32" }, memoryPolicy: { mode: "MPOL_BIND", nodes: "0" } };
    const look = (pid: number) => [
      readFileSync(`/proc/${pid}/personality`, "utf8").trim(),
      readFileSync(`/proc/${pid}/numa_maps`, "utf8").split("\n", 1)[0]?.split(" ")[1],
    ];
    expect(await both(changes, look)).toEqual([
      ["00000008", "bind:0"],
      ["00000008", "bind:0"],
    ]);
    expect(await both({}, look)).toEqual([
      ["00000000", "default"],
      ["00000000", "default"],
    ]);
  });

  it.each([
    [{ personality: { domain: "SOLARIS" } }, 'personality.domain "SOLARIS" is not known'],
    [{ personality: { domain: "LINUX", flags: ["x"] } }, "personality.flags x"],
    [{ memoryPolicy: { mode: "MPOL_BIND" } }, "memoryPolicy.nodes must name a node"],
    [{ memoryPolicy: { mode: "MPOL_LOCAL", nodes: "0" } }, "memoryPolicy.nodes must be empty"],
    [{ memoryPolicy: { mode: "MPOL_BIND", nodes: "63" } }, "memory-policy"],
  ] as const)("refuses %j", async (changes, message) => {
    const container = await place.create(changes);
    await expect(container.run(shell("true"))).rejects.toThrow(message);
    await container.destroy();
  });
});

describe("a process from config.json", () => {
  it("has its umask, groups, limits, oom score and scheduling #umask #user #rlimits #oom-score #scheduler #oci-config", async () => {
    const id = place.newId();
    const { config, process: spec } = fromOciSpec(
      {
        ociVersion: "1.3.0",
        root: { path: place.rootfs },
        process: {
          cwd: "/",
          env: ["PATH=/bin"],
          args: ["sh", "-c", "umask; id -G; ulimit -n; cat /proc/self/oom_score_adj"],
          user: { uid: 1000, gid: 1001, umask: 0o27, additionalGids: [2000, 3000] },
          rlimits: [{ type: "RLIMIT_NOFILE", soft: 300, hard: 400 }],
          oomScoreAdj: 500,
          scheduler: { policy: "SCHED_BATCH" },
        },
        mounts: [{ destination: "/proc", type: "proc", source: "proc" }],
        linux: { namespaces: [{ type: "mount" }, { type: "pid" }], cgroupsPath: `${place.cgroup}/${id}` },
      },
      place.top,
    );
    const container = await Container.create(place.stateDir, id, config);
    const started = new Process({ ...spec, stdout: "pipe" });
    expect(await initOutput(container, "", started.spec)).toBe("0027\n1001 2000 3000\n300\n500");
    await container.destroy();
  });
});

describe("labels", () => {
  it("are refused where the kernel has no such module, whoever asks; unconfined asks for nothing", async () => {
    const cases: readonly (readonly [Partial<Config>, string])[] = [
      [{ apparmorProfile: "some-profile" }, 'AppArmor profile "some-profile" cannot be applied: AppArmor is not enabled'],
      [{ selinuxLabel: "a:b:c:s0" }, 'SELinux label "a:b:c:s0" cannot be applied: SELinux is not enabled'],
      [{ mountLabel: "a:b:c:s0" }, 'mount label "a:b:c:s0" cannot be applied: SELinux is not enabled'],
    ];
    for (const [changes, message] of cases) {
      const container = await place.create(changes);
      await expect(container.run(shell("true"))).rejects.toThrow(message);
      await container.destroy();
    }
    const container = await place.sleeping({ apparmorProfile: "unconfined" });
    await expect(output(container, "true", { apparmorProfile: "some-profile" })).rejects.toThrow("AppArmor is not enabled");
    expect(await output(container, "echo fine")).toBe("fine");
    await end(container);
  });
});

describe("Intel RDT", () => {
  it("is refused where resctrl is not mounted", async () => {
    await expect(place.create({ intelRdt: { closID: "gold", schemata: ["L3:0=f"] } })).rejects.toThrow(
      "intelRdt cannot be applied: resctrl is not mounted on this node",
    );
  });
});
