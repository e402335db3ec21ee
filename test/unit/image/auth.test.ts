import { describe, expect, it } from "vitest";
import { credentialsOf, parseChallenges, sameServer } from "../../../src/image/auth.ts";

const plain = (header: string): unknown =>
  parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);

describe("parseChallenges", () => {
  it.each([
    [
      'Bearer realm="https://a/token",service="s",scope="repository:x:pull,push"',
      [["bearer", { realm: "https://a/token", service: "s", scope: "repository:x:pull,push" }]],
    ],
    ["Basic realm=plain", [["basic", { realm: "plain" }]]],
    ["Basic", [["basic", {}]]],
    [
      'Negotiate, Basic realm="r", Bearer realm="b" , error="invalid_token"',
      [
        ["negotiate", {}],
        ["basic", { realm: "r" }],
        ["bearer", { realm: "b", error: "invalid_token" }],
      ],
    ],
    ['Bearer realm="a \\"quoted\\" one",Service=s', [["bearer", { realm: 'a "quoted" one', service: "s" }]]],
    ['Bearer realm = "spaced" , service = x', [["bearer", { realm: "spaced", service: "x" }]]],
    ["", []],
    ['="', []],
    ['Bearer realm="unclosed', [["bearer", {}]]],
  ])("reads %s", (header, expected) => {
    expect(plain(header)).toEqual(expected);
  });
  it("reads several headers, and takes no time for a hostile one", () => {
    expect(parseChallenges(["Basic realm=a", "Bearer realm=b"])).toHaveLength(2);
    expect(parseChallenges(undefined)).toEqual([]);
    const begun = performance.now();
    parseChallenges(`Bearer ${"a=b ,".repeat(3000)}"${"\\".repeat(3000)}`);
    expect(performance.now() - begun).toBeLessThan(500);
  });
});

describe("sameServer", () => {
  it.each([
    ["https://index.docker.io/v1/", "registry-1.docker.io", true],
    ["docker.io", "registry-1.docker.io", true],
    ["registry.example", "registry.example", true],
    ["https://registry.example/v2/", "registry.example", true],
    ["registry.example:443", "registry.example", true],
    ["registry.example:5000", "registry.example", false],
    ["registry.example", "registry.example:5000", false],
    ["registry.example.evil", "registry.example", false],
    ["evil/registry.example", "registry.example", false],
    ["https://registry.example@evil.example", "registry.example", false],
    ["REGISTRY.example", "registry.example", true],
    ["::not a host", "registry.example", false],
  ])("%s and %s: %s", (server, host, expected) => {
    expect(sameServer(server, host)).toBe(expected);
  });
});

describe("credentialsOf", () => {
  const none = { username: "", password: "", auth: "", serverAddress: "", identityToken: "", registryToken: "" };
  const base64 = (text: string): string => Buffer.from(text).toString("base64");
  it("has an order of precedence", () => {
    const all = { username: "u", password: "p", auth: base64("a:b"), serverAddress: "", identityToken: "i", registryToken: "r" };
    expect(credentialsOf(all)).toEqual({ kind: "password", username: "u", password: "p" });
    expect(credentialsOf({ ...all, username: "" })).toEqual({ kind: "identity", token: "i" });
    expect(credentialsOf({ ...all, username: "", identityToken: "" })).toEqual({
      kind: "password",
      username: "a",
      password: "b",
    });
    expect(credentialsOf({ ...none, registryToken: "r" })).toEqual({ kind: "bearer", token: "r" });
    expect(credentialsOf(none)).toEqual({ kind: "anonymous" });
    expect(credentialsOf(undefined)).toEqual({ kind: "anonymous" });
  });
  it("keeps colons of the password, cuts NULs, knows the name for identity tokens", () => {
    expect(credentialsOf({ ...none, auth: base64("u:p:q\0\0") })).toEqual({ kind: "password", username: "u", password: "p:q" });
    expect(credentialsOf({ ...none, auth: base64("<token>:t") })).toEqual({ kind: "identity", token: "t" });
  });
});
