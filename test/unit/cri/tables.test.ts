/** The pure tables: phases, exits, decisions of recovery. */
import { describe, expect, it } from "vitest";
import type { ContainerExit } from "../../../src/core/runtime.ts";
import { exitFacts } from "../../../src/cri/container-exit.ts";
import { advanceContainer, type ContainerPhase } from "../../../src/cri/container-state.ts";
import { decideContainer, decideSandbox } from "../../../src/cri/recovery-decisions.ts";
import { advanceNetwork, advanceSandbox, type SandboxPhase } from "../../../src/cri/sandbox-state.ts";

const containerPhases = ["creating", "created", "starting", "running", "exited", "unknown", "removing"] as const;
const sandboxPhases = ["creating", "ready", "stopping", "stopped", "removing"] as const;

/** Every pair that is allowed, as "from to". */
function allowed<P extends string>(phases: readonly P[], advance: (from: P, to: P) => P): string[] {
  return phases.flatMap((from) =>
    phases.flatMap((to) => {
      try {
        return advance(from, to) === to ? [`${from} ${to}`] : [];
      } catch {
        return [];
      }
    }),
  );
}

describe("phases", () => {
  it("of a container are the drawn ones and no others", () => {
    expect(allowed<ContainerPhase>(containerPhases, advanceContainer)).toEqual([
      "creating created",
      "creating exited",
      "created starting",
      "created exited",
      "created unknown",
      "created removing",
      "starting created",
      "starting running",
      "starting exited",
      "starting unknown",
      "running exited",
      "running unknown",
      "exited removing",
      "unknown created",
      "unknown running",
      "unknown exited",
    ]);
  });

  it("of a sandbox never lead back to ready", () => {
    expect(allowed<SandboxPhase>(sandboxPhases, advanceSandbox)).toEqual([
      "creating ready",
      "creating stopping",
      "ready stopping",
      "stopping stopped",
      "stopped removing",
    ]);
  });

  it("of a network end in detached", () => {
    const phases = ["none", "attaching", "attached", "detached"] as const;
    expect(allowed(phases, advanceNetwork)).toEqual(["attaching attached", "attaching detached", "attached detached"]);
  });

  it("name both ends when they are refused", () => {
    expect(() => advanceContainer("exited", "running")).toThrow("container is exited; it cannot become running");
  });
});

describe("how an exit is recorded", () => {
  const exit = (facts: Partial<ContainerExit>): ContainerExit => ({
    containerId: "c",
    exitCode: 0,
    signal: 0,
    known: true,
    oomKilled: false,
    finishedAtNs: 9n,
    startedAtNs: 3n,
    logDroppedBytes: 0n,
    ...facts,
  });

  it.each([
    ["exit 0", exit({}), 0, "Completed"],
    ["exit 3", exit({ exitCode: 3 }), 3, "Error"],
    ["killed by a signal", exit({ exitCode: 143, signal: 15 }), 143, "Error"],
    ["killed for memory", exit({ exitCode: 137, signal: 9, oomKilled: true }), 137, "OOMKilled"],
    ["status lost", exit({ exitCode: 255, known: false }), 255, "Unknown"],
  ])("%s", (_what, report, exitCode, reason) => {
    expect(exitFacts({ kind: "reported", exit: report }, 50n)).toMatchObject({ exitCode, reason, finishedAtNs: 9n });
  });

  it("takes the present when the time of the end is not known", () => {
    expect(exitFacts({ kind: "reported", exit: exit({ finishedAtNs: 0n }) }, 50n).finishedAtNs).toBe(50n);
  });

  it("says when bytes of the log were lost", () => {
    expect(exitFacts({ kind: "reported", exit: exit({ logDroppedBytes: 7n }) }, 50n).message).toContain("7 bytes");
  });

  it("start failed: 128 StartError with the reason", () => {
    const facts = exitFacts({ kind: "never-started", message: "not found" }, 50n);
    expect(facts).toEqual({ exitCode: 128, reason: "StartError", message: "not found", finishedAtNs: 50n });
  });

  it("lost: 255 Unknown, now", () => {
    const facts = exitFacts({ kind: "lost", message: "rebooted" }, 50n);
    expect(facts).toEqual({ exitCode: 255, reason: "Unknown", message: "rebooted", finishedAtNs: 50n });
  });
});

describe("what recovery decides", () => {
  const findings = ["alive", "dead", "unreachable", "rebooted"] as const;

  it("for sandboxes", () => {
    const table = Object.fromEntries(
      sandboxPhases.map((phase) => [phase, findings.map((helper) => decideSandbox(phase, helper)).join(" ")]),
    );
    expect(table).toEqual({
      //         alive dead unreachable rebooted
      creating: "drop drop suspect drop",
      ready: "keep end suspect end",
      stopping: "keep end suspect end",
      stopped: "keep keep keep keep",
      removing: "finish-removal finish-removal finish-removal finish-removal",
    });
  });

  it("for containers whose helper is alive", () => {
    const states = [undefined, "creating", "parked", "starting", "running", "exited"] as const;
    const table = Object.fromEntries(
      containerPhases.map((phase) => [phase, states.map((state) => decideContainer(phase, state)).join(" ")]),
    );
    expect(table).toEqual({
      //         absent creating parked starting running exited
      creating: "drop drop drop drop drop drop",
      created: "lost keep keep set-running set-running take-exit",
      starting: "lost set-created set-created set-running set-running take-exit",
      running: "lost set-created set-created keep keep take-exit",
      exited: "keep kill kill kill kill take-exit",
      unknown: "lost set-created set-created set-running set-running take-exit",
      removing: Array.from({ length: 6 }, () => "finish-removal").join(" "),
    });
  });
});
