import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse } from "smol-toml";
import { describe, expect, it } from "vitest";
import { describeConfig, loadConfig, parseConfig } from "../../src/config.ts";

const mistake = (text: string): string => {
  try {
    parseConfig(text, "config.toml");
  } catch (error) {
    return (error as Error).message;
  }
  return "no mistake";
};

describe("a configuration", () => {
  it("is complete without a file", () => {
    const config = parseConfig("", "nowhere");
    expect(config).toMatchObject({
      root: "/var/lib/caisson",
      state: "/run/caisson",
      listen: "/run/caisson/caisson.sock",
      logLevel: "info",
      cni: { confDirs: ["/etc/cni/net.d"], binDirs: ["/opt/cni/bin", "/usr/lib/cni"], cacheDir: "/var/lib/caisson/cni" },
      registry: { hostsDir: "/etc/caisson/hosts.d", localLayouts: {} },
      runtime: { cgroupDriver: "auto", netnsDir: "/run/netns", maxLogLine: 16_384, absentMountSources: "create" },
    });
    expect(config.runtime.defaultCapabilities).toHaveLength(14);
  });

  it("names the flag, and not the file, whose value is wrong", () => {
    const parse = (): unknown => parseConfig("", "/etc/x.toml", { root: "relative", log_level: "loud" as "info" });
    expect(parse).toThrow(/--root: must be an absolute path; --log-level: .*"loud"/);
    expect(parse).not.toThrow(/x\.toml/);
  });

  it("gives way to flags", () => {
    const config = parseConfig('root = "/a"\nlog_level = "warn"', "f", { root: "/b/", listen: "/c.sock" });
    expect([config.root, config.listen, config.logLevel, config.cni.cacheDir]).toEqual(["/b", "/c.sock", "warn", "/b/cni"]);
  });

  it("cannot be changed", () => {
    const config = parseConfig("", "f") as unknown as {
      root: string;
      cni: { confDirs: string[] };
      runtime: { defaultSysctls: object };
    };
    expect(() => (config.root = "/x")).toThrow(TypeError);
    expect(() => config.cni.confDirs.push("/x")).toThrow(TypeError);
    expect(Object.isFrozen(config.runtime.defaultSysctls)).toBe(true);
  });

  it("keeps names inside values as they are", () => {
    const config = parseConfig(
      '[registry.local_layouts]\n"my_host.local/a_b" = "/x"\n[runtime.default_sysctls]\n"net.a_b" = "1"',
      "f",
    );
    expect(config.registry.localLayouts).toEqual({ "my_host.local/a_b": "/x" });
    expect(config.runtime.defaultSysctls).toEqual({ "net.a_b": "1" });
  });

  it("has runtime handlers, each with what differs from [runtime]", () => {
    const text = '[runtimes.strict]\ndefault_capabilities = ["CHOWN"]\n[runtimes.large-shm]\nshm_bytes = 1073741824';
    const { runtimes } = parseConfig(text, "f");
    expect(runtimes).toEqual({ strict: { defaultCapabilities: ["CHOWN"] }, "large-shm": { shmBytes: 2 ** 30 } });
    expect(Object.isFrozen(runtimes.strict?.defaultCapabilities)).toBe(true);
  });

  it("is described with every key, and the description is a configuration with the defaults", () => {
    const text = describeConfig();
    expect(parseConfig(text, "described")).toEqual(parseConfig("", "empty"));
    const lines = text.split("\n");
    const keys = lines.filter((line) => /^\w+ = /.test(line));
    expect(keys.length).toBeGreaterThan(20);
    for (const key of keys) expect(lines[lines.indexOf(key) - 1], key).toMatch(/^# .{10}/);
    expect(Object.keys(parse(text))).toContain("cni");
  });
});

describe("a mistake is named", () => {
  it.each([
    ['[cni]\nconf_dir = ["/x"]', "config.toml: unknown key cni.conf_dir"],
    ["rooot = 1", "config.toml: unknown key rooot"],
    ['[cnii]\nx = ""', "config.toml: unknown key cnii"],
    ['root = "var"', "config.toml: root: must be an absolute path"],
    ["[image]\nmax_concurrent_downloads = 0", /^config.toml: image.max_concurrent_downloads: .*>=1/],
    ['[runtime]\ncgroup_driver = "upstart"', /^config.toml: runtime.cgroup_driver: .*cgroupfs/],
    ['log_level = "loud"', /^config.toml: log_level: /],
    ["[runtimes.caisson]", /runtimes.caisson: is the default handler/],
    ["[runtimes.Kata]", /runtimes.Kata: must be a name of lower-case/],
    ['[runtimes.a]\nnetns_dir = "/x"', "config.toml: unknown key runtimes.a.netns_dir"],
    ["root = /x", /^config.toml line 1, column \d+: not TOML/],
    ['a = 1\nroot = ""', /root: must be.*; config.toml: unknown key a/],
  ])("%j", (text, expected) => {
    expect(mistake(text)).toMatch(expected instanceof RegExp ? expected : new RegExp(expected.replaceAll(".", "\\.")));
  });
});

describe("the file", () => {
  it("must be there when it is named, and is read", () => {
    const directory = mkdtempSync(join(tmpdir(), "caisson-config-"));
    const path = join(directory, "c.toml");
    expect(() => loadConfig(path)).toThrow(`configuration file ${path} does not exist`);
    writeFileSync(path, 'state = "/s"');
    expect(loadConfig(path).state).toBe("/s");
    expect(() => loadConfig(directory)).toThrow(/EISDIR/);
    rmSync(directory, { recursive: true });
  });
});
