import { describe, expect, it } from "vitest";
import { formatReference, parseReference } from "../../../src/image/reference.ts";

const sha = `sha256:${"a".repeat(64)}`;

describe("parseReference", () => {
  it.each([
    ["busybox", "docker.io/library/busybox:latest"],
    ["busybox:1.36", "docker.io/library/busybox:1.36"],
    ["user/app", "docker.io/user/app:latest"],
    ["index.docker.io/library/busybox", "docker.io/library/busybox:latest"],
    ["docker.io/busybox", "docker.io/library/busybox:latest"],
    ["localhost/app", "localhost/app:latest"],
    ["localhost:5000/app:v1", "localhost:5000/app:v1"],
    ["registry.example/a/b/c", "registry.example/a/b/c:latest"],
    ["Registry/app", "Registry/app:latest"],
    ["[::1]:5000/app", "[::1]:5000/app:latest"],
    ["a/b__c.d--e_f", "docker.io/a/b__c.d--e_f:latest"],
    [`busybox@${sha}`, `docker.io/library/busybox@${sha}`],
    [`busybox:1@${sha}`, `docker.io/library/busybox:1@${sha}`],
    [`x@sha512:${"b".repeat(128)}`, `docker.io/library/x@sha512:${"b".repeat(128)}`],
    [`a:${"t".repeat(128)}`, `docker.io/library/a:${"t".repeat(128)}`],
  ])("reads %s", (text, expected) => {
    expect(formatReference(parseReference(text))).toBe(expected);
  });
  it.each([
    "",
    " ",
    "Busybox",
    "a//b",
    "/a",
    "a/",
    "a:",
    "a:b:c",
    "a@b",
    `a@sha256:${"A".repeat(64)}`,
    `a@sha256:${"a".repeat(63)}`,
    `a@md5:${"a".repeat(32)}`,
    "a..b",
    "a-",
    "-a",
    "a_-b",
    "https://a/b",
    "a b",
    "a\n",
    "a/../b",
    "../a",
    "host.example:99999999/a",
    "ho_st.example/a",
    `a:${"t".repeat(129)}`,
    "a".repeat(256),
    "a".repeat(64),
    "ä",
    "oci:/tmp/x",
  ])("refuses %j as an invalid argument", (text) => {
    expect(() => parseReference(text)).toThrow(expect.objectContaining({ code: "invalid_argument" }));
  });
  it("does not repeat megabytes of a bad reference", () => {
    expect(() => parseReference("A".repeat(1_000_000))).toThrow(/^.{0,600}$/s);
  });
});
