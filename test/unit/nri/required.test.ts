import { expect, it } from "vitest";
import { PodSandbox } from "../../../src/gen/nri/v1alpha1/api.ts";
import { checkPresent, parseNames, requiredFor } from "../../../src/nri/required.ts";

const key = "required-plugins.noderesource.dev";
const pod = (annotations: Record<string, string>): PodSandbox => PodSandbox.fromPartial({ annotations });
const requirement = { required: ["always"], tolerateAnnotation: "tolerate" };

it("reads lists of names as YAML writes them, and refuses everything else", () => {
  expect(parseNames("[\"a\", b, 'c']")).toEqual(["a", "b", "c"]);
  expect(parseNames("- a\n- 10-b\n")).toEqual(["a", "10-b"]);
  expect(parseNames("[]")).toEqual([]);
  for (const bad of ["a", "[a", "[a b]", "- a: b", "[a, [b]]", "{}"])
    expect(() => parseNames(bad)).toThrow("is not a list of plugin names");
});

it("takes the most specific annotation, beside what the configuration requires", () => {
  const annotated = pod({ [key]: "[c]", [`${key}/pod`]: "[b]", [`${key}/container.web`]: "[a]" });
  expect(requiredFor(requirement, annotated, "web")).toEqual(["always", "a"]);
  expect(requiredFor(requirement, annotated, "other")).toEqual(["always", "b"]);
  expect(requiredFor(requirement, pod({ [key]: "[c]" }), undefined)).toEqual(["always", "c"]);
});

it("requires nothing of a pod that tolerates it, when the node allows that", () => {
  expect(requiredFor(requirement, pod({ tolerate: "true" }), "web")).toEqual([]);
  expect(requiredFor(requirement, pod({ tolerate: "no" }), "web")).toEqual(["always"]);
  expect(requiredFor({ ...requirement, tolerateAnnotation: "" }, pod({ tolerate: "true" }), "web")).toEqual(["always"]);
});

it("knows plugins with and without their index, and names those that are missing", () => {
  const present = [{ index: "10", base: "a" }];
  checkPresent(["a", "10-a"], present, "it");
  expect(() => checkPresent(["20-a", "b", "a"], present, "this pod")).toThrow(
    "required NRI plugins 20-a, b are not connected: this pod",
  );
});
