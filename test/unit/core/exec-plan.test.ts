import { describe, expect, it } from "vitest";
import { type ExecPlanInput, planExec } from "../../../src/core/exec-plan.ts";
import { toHostId } from "../../../src/core/namespace/id-map.ts";
import { noSlot, nsKind } from "../../../src/core/plan-schema.ts";
import { names, plainPod, position, process, settings, userPod } from "./plan-fixtures.ts";

const input: ExecPlanInput = {
  containerId: "c1",
  process,
  pod: plainPod,
  cgroupNamespace: "private",
  hostPid: false,
  cgroupTasks: ["/sys/fs/cgroup/pids/c1/tasks"],
  settings,
  classOfService: false,
  stdio: { stdin: false, stdout: true, stderr: true },
};
const shared = nsKind.mnt | nsKind.net | nsKind.ipc | nsKind.uts;

describe("plan of an exec", () => {
  const plan = planExec(input);

  it("joins the cgroup while it sees the host's paths, then all namespaces of init at once", () => {
    expect(names(plan).slice(0, 4)).toEqual(["clean-start", "cgroup-attach", "oom-score-adj", "join-process"]);
    expect(plan[3]).toEqual({ op: "join-process", slot: 3, kinds: shared | nsKind.cgroup | nsKind.pid });
  });

  it("becomes visible to the container only when it is confined", () => {
    expect(names(plan).slice(-2)).toEqual(["fork", "exec"]);
    for (const op of ["seccomp", "bounding-caps", "user", "caps"] as const) {
      expect(position(plan, { op })).toBeLessThan(position(plan, { op: "fork" }));
    }
  });

  it("takes stdin from the container's null device unless there is one", () => {
    expect(plan).toContainEqual({ op: "stdio", stdin: noSlot, stdout: 1, stderr: 2 });
    expect(planExec({ ...input, stdio: { stdin: true, stdout: true, stderr: true } })).toContainEqual({
      op: "stdio",
      stdin: 0,
      stdout: 1,
      stderr: 2,
    });
  });

  it("joins a user namespace only where there is one: joining one's own is refused", () => {
    const kindsOf = (changes: Partial<ExecPlanInput>) => {
      const op = planExec({ ...input, ...changes }).find((item) => item.op === "join-process");
      return op !== undefined && "kinds" in op ? op.kinds : 0;
    };
    expect(kindsOf({}) & nsKind.user).toBe(0);
    expect(kindsOf({ pod: userPod }) & nsKind.user).toBe(nsKind.user);
    expect(kindsOf({ cgroupNamespace: "host" }) & nsKind.cgroup).toBe(0);
    expect(kindsOf({ hostPid: true }) & nsKind.pid).toBe(0);
  });

  it("gives the process its pipes before it is in a user namespace, where nobody could; a terminal is its own", () => {
    const given = (changes: Partial<ExecPlanInput>) => {
      const all = planExec({ ...input, ...changes });
      const before = all.slice(0, position(all, { op: "join-process" }));
      return before.flatMap((op) => (op.op === "chown-slot" ? [[op.slot, op.uid, op.gid]] : []));
    };
    const owner = [toHostId(process.user.uid, userPod.user?.uid ?? []), toHostId(process.user.gid, userPod.user?.gid ?? [])];
    expect(given({})).toEqual([]);
    expect(given({ pod: userPod })).toEqual([
      [1, ...owner],
      [2, ...owner],
    ]);
    expect(given({ pod: userPod, process: { ...process, terminal: true } })).toEqual([]);
  });

  it("does not fork where there is no PID namespace to enter", () => {
    expect(names(planExec({ ...input, hostPid: true }))).not.toContain("fork");
  });

  it("waits for its class of service before it starts anything", () => {
    const waiting = names(planExec({ ...input, classOfService: true }));
    expect(waiting.indexOf("barrier")).toBeLessThan(waiting.indexOf("join-process"));
    expect(names(planExec(input))).not.toContain("barrier");
  });

  it("has the container's scheduler, but for one that no fork hands on", () => {
    const with_ = (scheduler: NonNullable<typeof process.scheduler>) => ({ ...input, process: { ...process, scheduler } });
    expect(names(planExec(with_({ policy: "SCHED_BATCH", nice: 3 })))).toContain("scheduler");
    for (const scheduler of [
      { policy: "SCHED_DEADLINE", runtime: 1, deadline: 2, period: 3 },
      { policy: "SCHED_OTHER", flags: ["SCHED_FLAG_RESET_ON_FORK"] },
    ]) {
      expect(names(planExec(with_(scheduler)))).not.toContain("scheduler");
      expect(names(planExec({ ...with_(scheduler), hostPid: true }))).toContain("scheduler");
    }
  });
});
