import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { defaultEndpoint, isLoopback, loadEndpoints } from "../../../src/image/hosts.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "caisson-hosts-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function configure(name: string, text: string, file = "hosts.toml"): void {
  mkdirSync(join(dir, name), { recursive: true });
  writeFileSync(join(dir, name, file), text);
}
const urls = async (domain: string): Promise<string[]> => (await loadEndpoints(dir, domain)).map((e) => e.url);

it("speaks plain http to loopback only", () => {
  for (const host of ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000", "a.localhost"])
    expect(isLoopback(host), host).toBe(true);
  for (const host of ["localhost.example", "127.0.0.1.example", "128.0.0.1", "10.0.0.1", "[::2]", "example"])
    expect(isLoopback(host), host).toBe(false);
  expect(defaultEndpoint("localhost:5000").url).toBe("http://localhost:5000/v2");
  expect(defaultEndpoint("10.0.0.1:5000").url).toBe("https://10.0.0.1:5000/v2");
  expect(defaultEndpoint("docker.io").url).toBe("https://registry-1.docker.io/v2");
});

describe("loadEndpoints", () => {
  it("has a default without any file, and without the directory", async () => {
    expect(await urls("registry.example")).toEqual(["https://registry.example/v2"]);
    rmSync(dir, { recursive: true });
    expect(await urls("registry.example")).toEqual(["https://registry.example/v2"]);
  });
  it.each([
    ["h.example:5000", "h.example:5000"],
    ["h.example:5000", "h.example_5000_"],
    ["h.example:5000", "h.example"],
    ["h.example", "_default"],
  ])("finds for %s the directory %s", async (domain, name) => {
    configure("_default", '[host."https://default.example"]\n');
    configure(name, '[host."https://mirror.example"]\n');
    expect(await urls(domain)).toEqual(["https://mirror.example/v2", `https://${domain}/v2`]);
  });
  it("keeps the file's order, then the server; paths get /v2 unless they have it or override it", async () => {
    configure(
      "r.example",
      `server = "https://real.example/base"
[host."https://z.example"]
[host."http://a.example:8080/v2/proxy"]
[host."https://m.example/api"]
override_path = true
[host."127.0.0.1:5000"]
`,
    );
    expect(await urls("r.example")).toEqual([
      "https://z.example/v2",
      "http://a.example:8080/v2/proxy",
      "https://m.example/api",
      "http://127.0.0.1:5000/v2",
      "https://real.example/v2/base",
    ]);
    expect((await loadEndpoints(dir, "r.example")).map((e) => e.own)).toEqual([false, false, false, false, true]);
  });
  it("reads capabilities, certificates, headers and time-outs", async () => {
    configure("r.example", "CA", "ca.pem");
    configure("r.example", "CERT", "c.pem");
    configure("r.example", "KEY", "k.pem");
    configure(
      "r.example",
      `ca = "ca.pem"
[host."https://m.example"]
capabilities = ["pull"]
ca = ["ca.pem"]
client = [["c.pem", "k.pem"], ["c.pem", ""]]
skip_verify = true
dial_timeout = "1m30s"
[host."https://m.example".header]
x-one = "1"
X-Many = ["a", "b"]
`,
    );
    const [mirror, own] = await loadEndpoints(dir, "r.example");
    expect(mirror).toMatchObject({
      canPull: true,
      canResolve: false,
      tls: {
        ca: ["CA"],
        clients: [
          { cert: "CERT", key: "KEY" },
          { cert: "CERT", key: undefined },
        ],
        skipVerify: true,
      },
      headers: { "x-one": "1", "x-many": "a, b" },
      dialTimeoutMs: 90_000,
    });
    expect(own?.tls).toEqual({ ca: ["CA"], clients: [], skipVerify: false });
  });
  it("takes Docker's certificate files where there is no hosts.toml", async () => {
    configure("r.example", "CA", "ca.crt");
    configure("r.example", "CERT", "x.cert");
    configure("r.example", "KEY", "x.key");
    const [own] = await loadEndpoints(dir, "r.example");
    expect(own?.tls).toEqual({ ca: ["CA"], clients: [{ cert: "CERT", key: "KEY" }], skipVerify: false });
  });
  it.each([
    ["broken TOML", "server = ["],
    ["a server that is no string", "server = 1"],
    ["a scheme that is none of ours", 'server = "ftp://x"'],
    ["credentials in a URL", 'server = "https://u:p@x.example"'],
    ["hosts that are no table", 'host = "x"'],
    ["a missing authority", 'ca = "no.pem"'],
    ["capabilities that are no list", '[host."https://m.example"]\ncapabilities = "pull"'],
    ["a bad time-out", 'dial_timeout = "soon"'],
  ])("says which file has %s", async (_, text) => {
    configure("r.example", text);
    await expect(loadEndpoints(dir, "r.example")).rejects.toMatchObject({
      code: "failed_precondition",
      message: expect.stringContaining("r.example/hosts.toml"),
    });
  });
});
