/** What recovery does with each object, as pure tables. The helper's answer is truer than any record. */
import type { ContainerState } from "../core/runtime.ts";
import type { ContainerPhase } from "./container-state.ts";
import type { SandboxPhase } from "./sandbox-state.ts";

export type HelperFinding =
  /** It answers. */
  | "alive"
  /** It is gone, in this boot. */
  | "dead"
  /** It is there and does not answer in time. */
  | "unreachable"
  /** The machine was booted since. */
  | "rebooted";

export type SandboxDecision =
  /** Goes on as it was. */
  | "keep"
  /** Nobody ever saw it: take everything back. */
  | "drop"
  /** NOTREADY, its containers lost; the teardown follows. */
  | "end"
  /** NOTREADY, its containers unknown; whoever stops it kills by cgroup. */
  | "suspect"
  /** Its removal had begun. */
  | "finish-removal";

export function decideSandbox(phase: SandboxPhase, helper: HelperFinding): SandboxDecision {
  if (phase === "removing") return "finish-removal";
  if (phase === "stopped") return "keep";
  if (phase === "creating") return helper === "unreachable" ? "suspect" : "drop";
  if (helper === "alive") return "keep";
  return helper === "unreachable" ? "suspect" : "end";
}

export type ContainerDecision =
  | "keep"
  | "drop"
  /** Take over what the helper says: parked, or running, or its exit. */
  | "set-created"
  | "set-running"
  | "take-exit"
  /** The helper does not know it: its exit status is lost. */
  | "lost"
  /** Recorded as ended, and yet there: it must not run. */
  | "kill"
  | "finish-removal";

/** For a container whose pod's helper is alive; `state` is undefined when the helper does not know it. */
export function decideContainer(phase: ContainerPhase, state: ContainerState["phase"] | undefined): ContainerDecision {
  if (phase === "removing") return "finish-removal";
  if (phase === "creating") return "drop";
  if (phase === "exited") return state === undefined ? "keep" : state === "exited" ? "take-exit" : "kill";
  switch (state) {
    case undefined:
      return "lost";
    case "exited":
      return "take-exit";
    case "creating":
    case "parked":
      return phase === "created" ? "keep" : "set-created";
    case "starting":
    case "running":
      return phase === "running" ? "keep" : "set-running";
  }
}
