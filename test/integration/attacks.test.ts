/** Attacks of container escapes' history, each carried out against a real container by a test with its name; races are in test/race. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  appendFileSync,
  closeSync,
  copyFileSync,
  existsSync,
  globSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { allowedDevices, type Config, Container, type Mount } from "../../src/core/library/public.ts";
import { compileFixture } from "../helpers/compile.ts";
import { initOutput, LibraryPlace, output, shell } from "../helpers/library-place.ts";

let place: LibraryPlace;
/** What no container may reach or change. */
let decoy: string;
const secret = "of the host";

beforeAll(() => {
  place = new LibraryPlace();
  decoy = join(place.top, "decoy");
  copyFileSync(compileFixture("attacker"), join(place.rootfs, "bin/attacker"));
});
afterAll(async () => {
  await place[Symbol.asyncDispose]();
});
beforeEach(() => {
  mkdirSync(decoy);
  writeFileSync(join(decoy, "file"), secret);
});
afterEach(() => {
  expect(readdirSync(decoy)).toEqual(["file"]);
  expect(readFileSync(join(decoy, "file"), "utf8")).toBe(secret);
  rmSync(decoy, { recursive: true });
});

async function end(container: Container): Promise<void> {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
}
const mountsWithout = (...paths: string[]): readonly Mount[] =>
  (place.config("x").mounts ?? []).filter(({ destination }) => !paths.includes(destination));
const noDev = (): Partial<Config> => ({ mounts: mountsWithout("/dev", "/dev/pts", "/dev/shm"), devices: [] });
const up = "../../../../../../../../../..";

/** Another root for a while: what `change` did to it is taken back. */
async function withRoot(paths: readonly string[], change: () => void, work: () => Promise<void>): Promise<void> {
  for (const path of paths) renameSync(join(place.rootfs, path), join(place.top, `kept-${path}`));
  try {
    change();
    await work();
  } finally {
    for (const path of paths) {
      rmSync(join(place.rootfs, path), { recursive: true, force: true });
      renameSync(join(place.top, `kept-${path}`), join(place.rootfs, path));
    }
  }
}
async function refused(changes: Partial<Config>, text: RegExp, spec = {}): Promise<void> {
  const container = await place.create(changes);
  await expect(container.run(shell("true", spec))).rejects.toThrow(text);
  await container.destroy();
}

describe("descriptors of the runtime", () => {
  it("CVE-2024-21626, CVE-2019-16884: are no working directory, no root and no program of a container", async () => {
    const outside = /working directory|cannot make the directory/;
    for (let fd = 3; fd <= 20; fd += fd < 8 ? 1 : 4) await refused({}, outside, { cwd: `/proc/self/fd/${fd}` });
    const container = await place.sleeping();
    for (let fd = 3; fd <= 20; fd++) {
      const process = shell("true", { cwd: `/proc/self/fd/${fd}` });
      await expect(container.exec(process), `fd ${fd}`).rejects.toThrow(outside);
      await expect(container.exec(shell("", { args: [`/proc/self/fd/${fd}`] })), `fd ${fd}`).rejects.toThrow(/exec/);
    }
    expect(await output(container, "ls /proc/self/fd; ls -d /proc/self/cwd/../../../bin; readlink /proc/self/root")).toBe(
      "0\n1\n2\n3\n/proc/self/cwd/../../../bin\n/",
    );
    expect(await output(container, `test -e /proc/1/root${place.top} || echo unseen`)).toBe("unseen");
    await end(container);
  });

  it("CVE-2019-5736: lead to no file that can be written, and the helper's own is never executed inside #sealed-binary", async () => {
    const program = join(import.meta.dirname, "../../build/native/caisson-shim");
    const hash = (): string => createHash("sha256").update(readFileSync(program)).digest("hex");
    const before = hash();
    symlinkSync("/proc/self/exe", join(place.rootfs, "bin/entry"));
    writeFileSync(join(place.rootfs, "bin/script"), "#!/proc/self/exe\n", { mode: 0o755 });
    const container = await place.sleeping();
    const helper = JSON.parse(readFileSync(join(place.stateDir, container.id, "shim.json"), "utf8")).pid;
    const attacker = join(place.rootfs, "bin/attacker");
    // Not even root of the host can: SEAL, SHRINK, GROW, WRITE.
    expect(execFileSync(attacker, ["seals", `/proc/${helper}/exe`], { encoding: "utf8" })).toMatch(/^seals (15|31|47|63)$/m);
    expect(execFileSync(attacker, ["write", `/proc/${helper}/exe`], { encoding: "utf8" })).toMatch(/^write (1|26)$/m);
    for (const args of [["/proc/self/exe"], ["entry"], ["script"]]) {
      const process = shell("", { args });
      await container.exec(process).then(
        () => process.wait(),
        () => undefined,
      );
    }
    expect(hash()).toBe(before);
    await end(container);
    for (const name of ["entry", "script"]) rmSync(join(place.rootfs, "bin", name));
  });
});

describe("a root without its own /dev", () => {
  it("CVE-2025-31133: whose /dev/null is a link masks by the real one", async () => {
    const change = (): void => {
      for (const name of ["dev", "data"]) mkdirSync(join(place.rootfs, name));
      symlinkSync("/etc/passwd", join(place.rootfs, "dev/null"));
      writeFileSync(join(place.rootfs, "data/hidden"), "hidden");
    };
    await withRoot(["dev", "data"], change, async () => {
      const before = readFileSync(join(place.rootfs, "etc/passwd"), "utf8");
      const container = await place.create({ ...noDev(), maskPaths: ["/data/hidden"] });
      const stdin = openSync("/dev/null", "r");
      expect(
        await initOutput(container, "stat -c %t:%T /data/hidden; echo x > /data/hidden; wc -c < /data/hidden", { stdin }),
      ).toBe("1:3\n0");
      closeSync(stdin);
      await container.destroy();
      expect(readFileSync(join(place.rootfs, "etc/passwd"), "utf8")).toBe(before);
    });
  });

  it("CVE-2025-52565, CVE-2026-88264: has no terminal where /dev/pts, /dev/console or /dev/ptmx lead elsewhere", async () => {
    const change = (): void => {
      mkdirSync(join(place.rootfs, "dev/pts"), { recursive: true });
      symlinkSync("/etc/passwd", join(place.rootfs, "dev/pts/0"));
      symlinkSync("/etc/passwd", join(place.rootfs, "dev/console"));
      symlinkSync(`${up}/dev/ptmx`, join(place.rootfs, "dev/pts/ptmx"));
    };
    await withRoot(["dev"], change, async () => {
      const terminal = { terminal: true };
      await refused(noDev(), /\/dev\/pts\/ptmx is not a pty multiplexer/, terminal);
      const pts = mountsWithout("/dev", "/dev/shm");
      await refused({ ...noDev(), mounts: pts }, /\/dev\/console exists and is something else/, terminal);
    });
  });

  it("CVE-2026-41579, CVE-2026-47766: whose /dev is a link gets its devices inside, none on the host", async () => {
    await withRoot(
      ["dev"],
      () => symlinkSync(`${up}${decoy}`, join(place.rootfs, "dev")),
      async () => {
        const container = await place.create({ mounts: mountsWithout("/dev", "/dev/pts", "/dev/shm") });
        expect(await initOutput(container, "stat -c %t:%T /dev/null; readlink /dev/fd")).toBe("1:3\n/proc/self/fd");
        await container.destroy();
        const inside = join(place.rootfs, decoy);
        expect(lstatSync(join(inside, "fd")).isSymbolicLink()).toBe(true);
        rmSync(inside, { recursive: true });
      },
    );
  });
});

describe("procfs", () => {
  it("CVE-2025-52881, CVE-2019-16884: that the container covers takes no write of the runtime", async () => {
    const fake = ["self", "thread-self", "1", "sys/kernel"].map((name) => `mkdir -p /fake/${name}/attr`).join(";");
    const cover = `mkdir /fake; mount -t tmpfs fake /fake; ${fake}; echo decoy > /fake/self/oom_score_adj;
      cp /fake/self/oom_score_adj /fake/thread-self; mount --bind /fake /proc; echo covered; exec sleep 1000`;
    const capabilities = { bounding: ["CAP_SYS_ADMIN"], effective: ["CAP_SYS_ADMIN"], permitted: ["CAP_SYS_ADMIN"] };
    const container = await place.create({ oomScoreAdj: 321, capabilities });
    const first = shell(cover, { stdout: "pipe" });
    await container.run(first);
    await new Promise((resolve) => first.stdout?.once("data", resolve));
    const further = shell("echo $(cat /fake/self/oom_score_adj /fake/thread-self/oom_score_adj); read x", {
      stdin: "pipe",
      stdout: "pipe",
    });
    await container.exec(further);
    expect(String(await new Promise((resolve) => further.stdout?.once("data", resolve)))).toBe("decoy decoy\n");
    expect(readFileSync(`/proc/${further.pid}/oom_score_adj`, "utf8")).toBe("321\n");
    further.stdin?.end();
    await further.wait();
    await end(container);
    rmSync(join(place.rootfs, "fake"), { recursive: true });
  });

  it("CVE-2025-52881: that an image imitates takes no sysctl", async () => {
    const change = (): void => {
      mkdirSync(join(place.rootfs, "proc/sys/net/ipv4"), { recursive: true });
      writeFileSync(join(place.rootfs, "proc/sys/net/ipv4/ip_forward"), "decoy");
    };
    await withRoot(["proc"], change, async () => {
      const mount = { source: "proc", destination: "/data", device: "proc" };
      const container = await place.create({
        mounts: [...mountsWithout("/proc"), mount],
        sysctl: { "net.ipv4.ip_forward": "1" },
      });
      expect(await initOutput(container, "cat /proc/sys/net/ipv4/ip_forward; cat /data/sys/net/ipv4/ip_forward")).toBe("decoy1");
      await container.destroy();
    });
  });
});

describe("names and numbers", () => {
  it("CVE-2016-3697: a numeric user is an id, whatever passwd calls by that name", async () => {
    const passwd = join(place.rootfs, "etc/passwd");
    const kept = readFileSync(passwd);
    appendFileSync(passwd, "1000:x:0:0::/:/bin/sh\n4294967295:x:0:0::/:/bin/sh\n");
    const container = await place.sleeping();
    expect(await output(container, "id -u; id -g", { user: "1000" })).toBe("1000\n1001");
    for (const user of ["4294967295", "-1", "0x1", "1000:-1"])
      await expect(container.exec(shell("true", { user }))).rejects.toThrow();
    await end(container);
    writeFileSync(passwd, kept);
  });

  it("CVE-2021-43784: more than a 16-bit length can tell is carried whole, or refused", async () => {
    const long = "n".repeat(200);
    const sources = Array.from({ length: 350 }, (_, at) => join(place.top, `many-${long}`, `${at}`));
    for (const source of sources) mkdirSync(source, { recursive: true });
    const mounts = sources.map((source, at) => ({ source, destination: `/data/${at}`, device: "bind", flags: ["bind"] }));
    const container = await place.create({
      mounts: [...(place.config("x").mounts ?? []), ...mounts],
      sysctl: { "kernel.shmmni": "77" },
    });
    expect(await initOutput(container, "ls /data | wc -l; cat /proc/sys/kernel/shmmni; ls /sys/class/net")).toBe("350\n77\nlo");
    await container.destroy();
    for (const { destination } of mounts) rmSync(join(place.rootfs, destination), { recursive: true });
    rmSync(join(place.top, `many-${long}`), { recursive: true });
    const ids = Array.from({ length: 4000 }, (_, at) => ({ containerID: at, hostID: 1_000_000 + 2 * at, size: 1 }));
    const user = { namespaces: (["user", "mnt", "uts"] as const).map((type) => ({ type })), uidMappings: ids, gidMappings: ids };
    await refused(user, /map/);
    await refused({ namespaces: [{ type: "mnt" }, { type: "uts" }], hostname: "h".repeat(70_000) }, /host ?name/i);
  });

  it("class-cgroup-path: a path that climbs stays below the hierarchy's root", async () => {
    const id = place.newId();
    const path = `${place.cgroup}/../../../../../..${place.cgroup}/${id}`;
    const container = await place.create({ cgroups: { path, resources: { devices: allowedDevices } } }, id);
    await container.run(shell("sleep 1000"));
    expect(readFileSync(`/proc/${container.state().init_process_pid}/cgroup`, "utf8")).toMatch(
      new RegExp(`:pids:${place.cgroup}/${id}$`, "m"),
    );
    await end(container);
    expect(globSync(`/sys/fs/cgroup/*${place.cgroup}/${id}`)).toEqual([]);
  });
});

describe("privileges", () => {
  it("CVE-2022-29162, CVE-2016-8867: no capability is inheritable or ambient unless it was asked for", async () => {
    const sets = ["CAP_NET_RAW", "CAP_CHOWN"];
    const capabilities = { bounding: sets, effective: sets, permitted: sets };
    const container = await place.sleeping({ capabilities });
    const caps = "grep -E '^Cap(Inh|Amb|Prm)' /proc/self/status";
    const none = "0".repeat(16);
    expect(await output(container, caps, { capabilities })).toBe(
      `CapInh:\t${none}\nCapPrm:\t${"2001".padStart(16, "0")}\nCapAmb:\t${none}`,
    );
    expect(await output(container, caps, { user: "1000" })).toBe(`CapInh:\t${none}\nCapPrm:\t${none}\nCapAmb:\t${none}`);
    expect(readFileSync(`/proc/${container.state().init_process_pid}/status`, "utf8")).toMatch(/CapInh:\t0{16}\n/);
    await end(container);
  });

  it("CVE-2023-25809: in the host's cgroup namespace a user namespace's root changes no cgroup #cgroup-mount", async () => {
    const ids = [{ containerID: 0, hostID: 0, size: 65_536 }];
    const cgroup: Mount = { source: "cgroup", destination: "/sys/fs/cgroup", device: "cgroup", flags: [] };
    const container = await place.sleeping({
      namespaces: (["mnt", "pid", "net", "ipc", "uts", "user"] as const).map((type) => ({ type })),
      uidMappings: ids,
      gidMappings: ids,
      mounts: [...(place.config("x").mounts ?? []), cgroup],
    });
    const seen = await output(
      container,
      "ls /sys/fs/cgroup; for c in /sys/fs/cgroup/*; do mkdir $c/made && echo MADE; done; true",
    );
    expect(seen).toContain("pids");
    expect(seen).not.toContain("MADE");
    await end(container);
  });

  it("class-chroot-escape: a root that was moved and not pivoted to is not left by a second chroot", async () => {
    for (const noPivotRoot of [true, false]) {
      const capabilities = { bounding: ["CAP_SYS_CHROOT"], effective: ["CAP_SYS_CHROOT"], permitted: ["CAP_SYS_CHROOT"] };
      const container = await place.create({ noPivotRoot, capabilities });
      expect(await initOutput(container, "", { args: ["attacker", "escape", join(decoy, "file")] })).toBe(
        "chroot ok\nchroot_up ok\nmarker 2",
      );
      await container.destroy();
    }
  });

  it("class-null-owner: the host's null device stays root's, whoever has it as stdio", async () => {
    const container = await place.sleeping();
    const fd = openSync("/dev/null", "r+");
    const process = shell("true", { user: { uid: 1234, gid: 1234 }, stdin: fd, stdout: fd, stderr: fd });
    await container.exec(process);
    await process.wait();
    closeSync(fd);
    expect([statSync("/dev/null").uid, statSync("/dev/null").gid]).toEqual([0, 0]);
    await end(container);
  });

  it("class-recycled-pid: a process that has the number of one that ended gets no signal", async () => {
    const container = await place.sleeping();
    const file = join(place.stateDir, container.id, "state.json");
    const kept = readFileSync(file, "utf8");
    const state = JSON.parse(kept);
    writeFileSync(file, JSON.stringify({ ...state, init_process_start: state.init_process_start - 1 }));
    const other = await Container.load(place.stateDir, container.id);
    expect(await other.status()).toBe("stopped");
    await expect(other.signal("KILL")).rejects.toThrow("container not running");
    expect(existsSync(`/proc/${state.init_process_pid}`)).toBe(true);
    writeFileSync(file, kept);
    await end(await Container.load(place.stateDir, container.id));
  });

  it("class-argument-size: arguments beyond the kernel's limit fail the start, and nothing else", async () => {
    const container = await place.sleeping();
    await expect(container.exec(shell("", { args: ["true", "x".repeat(200_000)] }))).rejects.toThrow(/too long|E2BIG/i);
    expect(await output(container, "echo fine")).toBe("fine");
    await end(container);
  });
});
