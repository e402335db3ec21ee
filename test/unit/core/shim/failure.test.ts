import { describe, expect, it } from "vitest";
import type { Op, Plan } from "../../../../src/core/plan.ts";
import { opSchemas } from "../../../../src/core/plan-schema.ts";
import { describeOp, noOp, planFailure, requestFailure, startFailure } from "../../../../src/core/shim/failure.ts";

const plan: Plan = [
  { op: "attach", slot: 3, path: "/data", flags: 0 },
  { op: "sysctl", key: "net/ipv4/ip_forward", value: "1" },
  { op: "cwd", path: "/work", create: 0 },
  { op: "exec", path: "/bin/x", args: ["x"], env: [] },
];

describe("failures of a plan", () => {
  it("name the container, the operation, its path and the reason", () => {
    const error = planFailure("container c1", plan, { errno: 5, op: 0, detail: "/data" });
    expect(error.message).toBe('container c1: cannot mount on "/data" in the container: input/output error (EIO)');
    expect(error.code).toBe("internal");
    expect(error.fields).toMatchObject({ errno: 5, errnoName: "EIO", op: 0, opName: "attach" });
  });

  it("keep a detail that says more", () => {
    const error = planFailure("pod p", plan, { errno: 1, op: 1, detail: "not in this namespace" });
    expect(error.message).toBe(
      'pod p: cannot set the sysctl net.ipv4.ip_forward to "1": operation not permitted (EPERM) (not in this namespace)',
    );
  });

  it("blame the caller for a command or directory that cannot be", () => {
    expect(planFailure("c", plan, { errno: 2, op: 3, detail: "" })).toMatchObject({
      code: "invalid_argument",
      message: 'c: cannot execute "/bin/x": no such file or directory (ENOENT)',
    });
    expect(planFailure("c", plan, { errno: 20, op: 2, detail: "" }).code).toBe("invalid_argument");
    expect(planFailure("c", plan, { errno: 5, op: 3, detail: "" }).code).toBe("internal");
    expect(startFailure("c", { errno: 13, op: 90, detail: "/bin/x" })).toMatchObject({
      code: "invalid_argument",
      message: 'c: cannot execute "/bin/x": permission denied (EACCES)',
    });
  });

  it("leave the sentence alone that callers match for a missing command", () => {
    const detail = 'exec: "x": executable file not found in $PATH';
    for (const error of [planFailure("c", plan, { errno: 2, op: 3, detail }), startFailure("c", { errno: 2, op: 3, detail })]) {
      expect(error).toMatchObject({ code: "invalid_argument", message: `c: ${detail}` });
    }
  });

  it("tell a lack of resources and a missed deadline apart", () => {
    expect(planFailure("c", plan, { errno: 28, op: 0, detail: "" }).code).toBe("resource_exhausted");
    expect(planFailure("c", plan, { errno: 110, op: 0, detail: "" }).code).toBe("deadline_exceeded");
  });

  it("survive an index outside of the plan", () => {
    expect(planFailure("c", plan, { errno: 5, op: 77, detail: "" }).message).toMatch(/operation 77/);
  });

  it("have words for every operation", () => {
    for (const [name, { fields }] of Object.entries(opSchemas)) {
      const values = Object.entries(fields).map(([field, type]) => [field, type === "str" ? "/p" : type === "u32" ? 1 : 2n]);
      expect(describeOp({ op: name, ...Object.fromEntries(values) } as Op)).toMatch(/^[a-z]/);
    }
  });
});

describe("refusals of the shim", () => {
  it("become codes", () => {
    expect(requestFailure("container c", { errno: 2, op: noOp, detail: "no such container" })).toMatchObject({
      code: "not_found",
      message: "container c: no such container: no such file or directory (ENOENT)",
    });
    expect(requestFailure("c", { errno: 17, op: noOp, detail: "" }).code).toBe("already_exists");
    expect(requestFailure("c", { errno: 16, op: noOp, detail: "" }).code).toBe("failed_precondition");
    expect(requestFailure("c", { errno: 4711, op: noOp, detail: "" }).code).toBe("internal");
  });

  it("without an errno are a sentence of their own", () => {
    const error = requestFailure("container c", { errno: 0, op: noOp, detail: "the container is not running" });
    expect(error).toMatchObject({ code: "failed_precondition", message: "container c: the container is not running" });
    expect(planFailure("container c", plan, { errno: 0, op: noOp, detail: "why" }).message).toBe("container c: why");
  });
});
