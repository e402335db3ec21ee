/** The security context of a container. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { capabilitySet } from "./capabilities.ts";
import { clause } from "./clause.ts";
import { codes, forever, refused, useCri } from "./cri.ts";

const cri = useCri();
const context = (security_context: Message): Message => ({ linux: { security_context } });
const id = (value: number): Message => ({ value: String(value) });
const made = async (name: string): Promise<Message> => ({
  image: { image: await cri.pull(`${cri.endpoint.registry}/conformance/${name}:1`) },
});
const who = "id -u; id -g; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '";
const identity = async (more: Message): Promise<string> => (await cri.says(who, more)).out.trim().replaceAll("\n", " | ");
const creation = async (security_context: Message): Promise<unknown> =>
  await cri.create(await cri.sharedPod(), cri.containerConfig(forever, context(security_context)));

describe("user and groups", () => {
  clause("a numeric user has the group of its entry in the image's passwd, else 0", { madeImages: true }, async () => {
    const image = { image: { image: await cri.pull(`${cri.endpoint.registry}/conformance/busybox:1`) } };
    expect(await identity({ ...image, ...context({ run_as_user: id(1000) }) })).toMatch(/^1000 \| 1000 \| /);
    expect(await identity({ ...image, ...context({ run_as_user: id(4711) }) })).toBe("4711 | 0 | 0");
  });

  clause("run_as_group is the primary group", async () => {
    expect(await identity(context({ run_as_user: id(4711), run_as_group: id(4712) }))).toBe("4711 | 4712 | 4712");
  });

  clause("run_as_group without a user is an error", async () => {
    await refused(creation({ run_as_group: id(4712) }), codes.invalid);
  });

  clause(
    "run_as_username is looked up in the image's passwd; one that is not there is an error",
    { madeImages: true },
    async () => {
      expect(await identity({ ...(await made("busybox")), ...context({ run_as_username: "nobody" }) })).toMatch(
        /^65534 \| 65534 \| /,
      );
      await refused(creation({ run_as_username: "no-such-user" }), codes.any);
    },
  );

  clause("the image's user is used only when the config has none", { madeImages: true }, async () => {
    expect(await identity(await made("user-number"))).toMatch(/^1000 \| 2000 \| /);
    expect(await identity(await made("user-name"))).toMatch(/^1000 \| 2000 \| /);
    expect(await identity(await made("user-plain"))).toMatch(/^1000 \| 1000 \| /);
    expect(await identity({ ...(await made("user-number")), ...context({ run_as_user: id(0) }) })).toMatch(/^0 \| 0 \| /);
  });

  clause("Merge: the user's groups in the image and supplemental_groups", { madeImages: true }, async () => {
    const more = context({ run_as_user: id(1000), supplemental_groups: ["3000", "4000"] });
    expect(await identity({ ...(await made("busybox")), ...more })).toBe("1000 | 1000 | 100 1000 2000 3000 4000");
  });

  clause(
    "Strict: only supplemental_groups and the primary group",
    { since: "1.31", needs: "supplemental groups policy", madeImages: true },
    async () => {
      const more = context({ run_as_user: id(1000), supplemental_groups: ["3000"], supplemental_groups_policy: "Strict" });
      expect(await identity({ ...(await made("busybox")), ...more })).toBe("1000 | 1000 | 1000 3000");
    },
  );

  clause("an unknown policy is an error", { since: "1.31", needs: "supplemental groups policy" }, async () => {
    await refused(creation({ run_as_user: id(1000), supplemental_groups_policy: 9 }), codes.any);
  });

  clause("status.user tells uid, gid and all groups of the first process", { since: "1.31" }, async () => {
    const { status } = await cri.says(
      "exit 0",
      context({ run_as_user: id(4711), run_as_group: id(4712), supplemental_groups: ["4713"] }),
    );
    const { uid, gid, supplemental_groups } = status.user.linux;
    expect([uid, gid, [...supplemental_groups].sort()]).toEqual(["4711", "4712", ["4712", "4713"]]);
  });
});

describe("capabilities", () => {
  const sets = async (capabilities: Message, more: Message = {}): Promise<Record<string, ReadonlySet<string>>> => {
    const { out } = await cri.says("grep ^Cap /proc/self/status", context({ capabilities, ...more }));
    return Object.fromEntries(out.split("\n").map((line) => [line.slice(0, 6), capabilitySet(line.slice(8))]));
  };
  const names = (set: ReadonlySet<string> | undefined): string[] => [...(set ?? [])].sort();
  const common = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETPCAP", "SETUID"];

  clause("the default set has the common capabilities and none that rules the host", async () => {
    const { CapBnd, CapEff, CapPrm } = await sets({});
    expect(names(CapBnd)).toEqual(expect.arrayContaining(common));
    for (const strong of ["SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "NET_ADMIN", "SYS_TIME", "BPF"])
      expect(CapBnd?.has(strong)).toBe(false);
    expect(names(CapEff)).toEqual(names(CapBnd));
    expect(names(CapPrm)).toEqual(names(CapBnd));
  });

  clause("inheritable and ambient sets are empty", async () => {
    const { CapInh, CapAmb } = await sets({ add_capabilities: ["NET_ADMIN"] });
    expect([names(CapInh), names(CapAmb)]).toEqual([[], []]);
  });

  clause("a user that is not root has the bounding set and no effective one", async () => {
    const { CapBnd, CapEff, CapPrm } = await sets({}, { run_as_user: id(4711) });
    expect(names(CapBnd)).toEqual(expect.arrayContaining(common));
    expect([names(CapEff), names(CapPrm)]).toEqual([[], []]);
  });

  clause("names come without CAP_, in any case; adds come before drops", async () => {
    const { CapBnd } = await sets({ add_capabilities: ["net_admin", "SYS_TIME"], drop_capabilities: ["CHOWN", "SYS_TIME"] });
    expect([CapBnd?.has("NET_ADMIN"), CapBnd?.has("CHOWN"), CapBnd?.has("SYS_TIME")]).toEqual([true, false, false]);
  });

  clause("drop ALL and add one: only that one", async () => {
    expect(names((await sets({ drop_capabilities: ["ALL"], add_capabilities: ["NET_RAW"] })).CapBnd)).toEqual(["NET_RAW"]);
  });

  clause("drop ALL: none", async () => {
    expect(names((await sets({ drop_capabilities: ["ALL"] })).CapEff)).toEqual([]);
  });

  clause("add ALL and drop one: all but that one", async () => {
    const { CapBnd } = await sets({ add_capabilities: ["ALL"], drop_capabilities: ["CHOWN"] });
    expect([CapBnd?.has("SYS_ADMIN"), CapBnd?.has("NET_ADMIN"), CapBnd?.has("CHOWN")]).toEqual([true, true, false]);
  });
});

describe("privileged", () => {
  const options = { privileged: true, masked_paths: [], readonly_paths: [], seccomp: undefined };
  const privilegedPod = async (): ReturnType<typeof cri.pod> =>
    await cri.pod({ linux: { security_context: { privileged: true } } });

  clause("it needs a privileged sandbox", async () => {
    await refused(creation(options), codes.any);
  });

  clause("all capabilities, no seccomp filter, no masks, no_new_privs off", async () => {
    const script =
      "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; wc -c < /proc/kallsyms; head -c 1 /proc/keys | wc -c";
    const { out } = await cri.says(script, context(options), await privilegedPod());
    expect(out).toMatch(/NoNewPrivs:\t0\nSeccomp:\t0/);
    expect(capabilitySet(/CapEff:\t(\w+)/.exec(out)?.[1] ?? "").has("SYS_ADMIN")).toBe(true);
    expect(out.split("\n").at(-1)).toBe("1");
  });

  clause("/sys and /proc are writable", async () => {
    const { out } = await cri.says("grep -E ' (/sys|/proc|/proc/sys) ' /proc/mounts", context(options), await privilegedPod());
    for (const line of out.split("\n")) expect(line).toMatch(/ rw[, ]/);
  });

  clause("the host's devices are there and may be used", async () => {
    const { out } = await cri.says(
      "ls /dev; dd if=/dev/kmsg of=/dev/null bs=8192 count=1 2>&1 | tail -n 1",
      context(options),
      await privilegedPod(),
    );
    const present = new Set(out.split("\n"));
    const devices = readdirSync("/dev", { withFileTypes: true }).filter(
      (entry) => entry.isCharacterDevice() || entry.isBlockDevice(),
    );
    const missing = devices
      .map((entry) => entry.name)
      .filter((name) => !present.has(name) && name !== "console" && name !== "ptmx");
    expect(missing).toEqual([]);
    expect(out).not.toContain("not permitted");
  });
});

describe("file system", () => {
  clause("readonly_rootfs: the root cannot be written, mounts can", async () => {
    const host_path = join(cri.endpoint.scratch, "rw-beside-ro");
    mkdirSync(host_path, { recursive: true });
    const more = { mounts: [{ container_path: "/data", host_path }], ...context({ readonly_rootfs: true }) };
    const { out } = await cri.says(
      "touch /x 2>/dev/null || echo ro; touch /data/x && echo rw; touch /dev/shm/x && echo shm",
      more,
    );
    expect(out).toBe("ro\nrw\nshm");
  });

  clause("readonly_rootfs: what the runtime puts into /etc cannot be written either", async () => {
    const { out } = await cri.says(
      "for f in hosts resolv.conf hostname; do { echo x >> /etc/$f; } 2>/dev/null || echo ro; done",
      context({ readonly_rootfs: true }),
    );
    expect(out).toBe("ro\nro\nro");
  });

  clause("the root is writable otherwise, and what is written is the container's own", async () => {
    expect(await cri.says("echo x > /written && cat /written")).toMatchObject({ out: "x" });
    expect(await cri.says("test -e /written || echo absent")).toMatchObject({ out: "absent" });
  });

  clause("masked paths: a file reads as empty, a directory has nothing", async () => {
    const more = context({ masked_paths: ["/proc/cpuinfo", "/proc/sys", "/etc/group", "/no/such/path"] });
    expect(
      await cri.says("wc -c < /proc/cpuinfo; ls /proc/sys | wc -l; wc -c < /etc/group; wc -c < /proc/uptime", more),
    ).toMatchObject({
      out: expect.stringMatching(/^0\n0\n0\n[1-9]\d*$/),
    });
  });

  clause("read-only paths cannot be written", async () => {
    const more = context({ readonly_paths: ["/proc/self/oom_score_adj", "/etc", "/proc/sys"] });
    const { out } = await cri.says(
      "{ echo x > /etc/x; } 2>/dev/null || echo ro; { echo 1 > /proc/sys/kernel/shm_rmid_forced; } 2>/dev/null || echo ro",
      more,
    );
    expect(out).toBe("ro\nro");
  });

  clause("empty lists mean no masking: the runtime adds none of its own", async () => {
    const more = context({ masked_paths: [], readonly_paths: [] });
    const { out } = await cri.says(
      "head -c 1 /proc/keys | wc -c; cut -d' ' -f2 /proc/mounts | grep -E '^/(proc|sys/firmware)' | sort",
      more,
    );
    expect(out).toBe("1\n/proc");
  });

  clause("default mounts: /proc, /dev as tmpfs, /dev/pts, /dev/mqueue, /sys and cgroups read-only", async () => {
    const { out } = await cri.says("cut -d' ' -f2-4 /proc/mounts");
    const mounts = out.split("\n").map((line) => {
      const [path = "", type = "", options = ""] = line.split(" ");
      return { path, type, options: options.split(",") };
    });
    const typeOf = (path: string): string | undefined => mounts.findLast((mount) => mount.path === path)?.type;
    const types = ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys"].map(typeOf);
    expect(types).toEqual(["proc", "tmpfs", "devpts", "mqueue", "sysfs"]);
    const cgroups = mounts.filter((mount) => mount.type.startsWith("cgroup"));
    expect(cgroups.length).toBeGreaterThan(0);
    for (const mount of mounts.filter(({ path }) => path === "/sys").concat(cgroups))
      expect(mount.options, mount.path).toContain("ro");
  });

  clause("default devices are there and others cannot be made", async () => {
    const script = `for d in null zero full random urandom tty; do test -c /dev/$d && echo $d; done
      test -e /dev/ptmx && echo ptmx; readlink /dev/fd; readlink /dev/stdin
      mknod /tmp/mem c 1 1 2>/dev/null && head -c 1 /tmp/mem 2>/dev/null || echo refused`;
    const { out } = await cri.says(
      script,
      context({ capabilities: { add_capabilities: ["MKNOD", "SYS_RAWIO"] }, seccomp: { profile_type: "Unconfined" } }),
    );
    const names = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "/proc/self/fd", "/proc/self/fd/0", "refused"];
    expect(out.split("\n")).toEqual(names);
  });

  clause("devices: the host's device under the given name with the given permissions", async () => {
    const devices = [{ container_path: "/dev/extra", host_path: "/dev/zero", permissions: "rw" }];
    const pod = await cri.sharedPod();
    const config = cri.containerConfig(["/bin/sh", "-c", "head -c 3 /dev/extra | od -An -tx1; stat -c %t:%T /dev/extra"], {
      devices,
    });
    const { rdev } = statSync("/dev/zero");
    expect((await cri.outcome(await cri.run(pod, config))).out.split(/\s+/)).toEqual([
      "00",
      "00",
      "00",
      `${rdev >> 8}:${rdev & 255}`,
    ]);
  });

  clause("a device that the host does not have is an error", async () => {
    const devices = [{ container_path: "/dev/extra", host_path: "/dev/no-such-device", permissions: "rw" }];
    await refused(cri.create(await cri.sharedPod(), cri.containerConfig(forever, { devices })), codes.any);
  });
});

describe("no_new_privs and seccomp", () => {
  const mode = async (security_context: Message): Promise<string> =>
    (
      await cri.says("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr '\\n\\t' '  '", context(security_context))
    ).out.trim();

  clause("no_new_privs is set when asked for and only then", async () => {
    expect(await mode({ no_new_privs: true })).toMatch(/^NoNewPrivs: 1/);
    expect(await mode({ no_new_privs: false, run_as_user: id(1000) })).toMatch(/^NoNewPrivs: 0/);
  });

  clause("seccomp: RuntimeDefault filters, Unconfined does not, no profile is unconfined", async () => {
    expect(await mode({ seccomp: { profile_type: "RuntimeDefault" } })).toContain("Seccomp: 2");
    expect(await mode({ seccomp: { profile_type: "Unconfined" } })).toContain("Seccomp: 0");
    expect(await mode({ seccomp: undefined })).toContain("Seccomp: 0");
  });

  clause("RuntimeDefault unlocks system calls by granted capability", async () => {
    const unshare = "unshare -m true 2>/dev/null && echo allowed || echo denied";
    const runtimeDefault = { profile_type: "RuntimeDefault" };
    expect(await cri.says(unshare, context({ seccomp: runtimeDefault }))).toMatchObject({ out: "denied" });
    const more = context({ seccomp: runtimeDefault, capabilities: { add_capabilities: ["SYS_ADMIN"] } });
    expect(await cri.says(unshare, more)).toMatchObject({ out: "allowed" });
  });

  clause("Localhost: the profile of the given file is applied", async () => {
    const path = join(cri.endpoint.scratch, "no-mkdir.json");
    const rule = { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO" };
    writeFileSync(path, JSON.stringify({ defaultAction: "SCMP_ACT_ALLOW", syscalls: [rule] }));
    const seccomp = { profile_type: "Localhost", localhost_ref: path };
    expect(
      await cri.says("mkdir /tmp/d 2>/dev/null || echo denied; touch /tmp/f && echo allowed", context({ seccomp })),
    ).toMatchObject({
      out: "denied\nallowed",
    });
  });

  clause("Localhost: a profile that cannot be read is an error, as is localhost_ref with another type", async () => {
    await refused(
      creation({ seccomp: { profile_type: "Localhost", localhost_ref: join(cri.endpoint.scratch, "none.json") } }),
      codes.any,
    );
    await refused(creation({ seccomp: { profile_type: "Localhost", localhost_ref: "" } }), codes.any);
    await refused(creation({ seccomp: { profile_type: "Unconfined", localhost_ref: "/x.json" } }), codes.any);
  });

  clause("typed seccomp wins over the deprecated seccomp_profile_path, which works alone", async () => {
    expect(await mode({ seccomp: { profile_type: "RuntimeDefault" }, seccomp_profile_path: "unconfined" })).toContain(
      "Seccomp: 2",
    );
    expect(await mode({ seccomp: undefined, seccomp_profile_path: "runtime/default" })).toContain("Seccomp: 2");
    expect(await mode({ seccomp: undefined, seccomp_profile_path: "unconfined" })).toContain("Seccomp: 0");
  });
});

describe("AppArmor", () => {
  const enabled = readApparmor();
  const profile = async (security_context: Message): Promise<string> =>
    (await cri.says("cat /proc/self/attr/current 2>/dev/null || echo none", context(security_context))).out;

  clause("without a profile a container runs; Unconfined is honoured everywhere", { since: "1.23" }, async () => {
    expect(await profile({})).not.toBe("");
    expect(["unconfined", "none", ""]).toContain(await profile({ apparmor: { profile_type: "Unconfined" } }));
  });

  clause("Localhost: a profile that is not loaded is an error, as is any where AppArmor is off", { since: "1.23" }, async () => {
    const localhost = { profile_type: "Localhost", localhost_ref: "caisson-conformance-no-such-profile" };
    await refused(creation({ apparmor: localhost }), codes.any);
    if (!enabled) await refused(creation({ apparmor: { profile_type: "RuntimeDefault" } }), codes.any);
  });

  clause("typed apparmor wins over the deprecated apparmor_profile", { since: "1.23" }, async () => {
    const wrong = "localhost/caisson-conformance-no-such-profile";
    await creation({ apparmor: { profile_type: "Unconfined" }, apparmor_profile: wrong });
    await refused(creation({ apparmor_profile: wrong }), codes.any);
  });
});

describe("CDI devices", () => {
  const conditions = { since: "1.27" } as const;
  const kind = "conformance.caisson.test/thing";
  const specification = join(cri.endpoint.cdi, "caisson-conformance.json");
  const asking = (...names: string[]): Message => ({ CDI_devices: names.map((name) => ({ name: `${kind}=${name}` })) });
  afterEach(() => rmSync(specification, { force: true }));

  clause("the edits of the named devices are made once each, by a file that has just come", conditions, async () => {
    mkdirSync(cri.endpoint.cdi, { recursive: true });
    const deviceNodes = [{ path: "/dev/thing", hostPath: "/dev/null" }];
    const devices = [{ name: "one", containerEdits: { env: ["THING=one"], deviceNodes } }];
    writeFileSync(specification, JSON.stringify({ cdiVersion: "0.6.0", kind, devices }));
    const { out } = await cri.says(
      "echo $THING; stat -c %F /dev/thing; echo x > /dev/thing && echo written",
      asking("one", "one"),
    );
    expect(out).toBe("one\ncharacter special file\nwritten");
  });

  clause("a device that no specification has is an error", conditions, async () => {
    await refused(cri.create(await cri.sharedPod(), cri.containerConfig(forever, asking("none"))), codes.any);
  });
});

function readApparmor(): boolean {
  const path = "/sys/module/apparmor/parameters/enabled";
  return existsSync(path) && readFileSync(path, "utf8").startsWith("Y");
}
