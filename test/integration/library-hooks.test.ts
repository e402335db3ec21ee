/** Hooks of containers of the library: moments, namespaces, state, environment, time-outs, failures. */
import { existsSync, mkdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Config, type Container, fromOciSpec } from "../../src/core/library/public.ts";
import { LibraryPlace, output, shell, until } from "../helpers/library-place.ts";

let place: LibraryPlace;
let log: string;
beforeAll(() => {
  place = new LibraryPlace();
  mkdirSync(join(place.top, "log"));
});
afterAll(async () => {
  await place[Symbol.asyncDispose]();
});

type Hooks = NonNullable<Config["hooks"]>;
type Name = keyof Hooks;
const names: readonly Name[] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/** A hook that runs a script of the host's (or, in startContainer, the container's) shell. */
const script = (text: string, more: object = {}) => ({
  path: "/bin/sh",
  args: ["sh", "-c", text],
  env: ["PATH=/bin:/usr/bin"],
  ...more,
});
const lines = (file: string): string[] => (existsSync(file) ? readFileSync(file, "utf8").trim().split("\n") : []);

async function end(container: Container): Promise<void> {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
}

/** Every hook writes where it is and what it got into a directory that the container has at /log. */
function recording(): Partial<Config> {
  log = join(place.top, "log", place.newId());
  mkdirSync(log);
  const record = (name: Name, where: string) =>
    script(
      `cat > ${where}/${name}.state; readlink /proc/self/ns/mnt > ${where}/${name}.mnt; env | sort > ${where}/${name}.env; ls /proc/self/fd > ${where}/${name}.fds; pwd > ${where}/${name}.cwd; echo ${name} >> ${where}/order`,
      { env: ["PATH=/bin:/usr/bin", `HOOK=${name}`] },
    );
  return {
    mounts: [...(place.config("x").mounts ?? []), { source: log, destination: "/log", device: "bind", flags: ["rbind"] }],
    labels: { bundle: "/some/bundle", "com.example.key": "value" },
    hooks: Object.fromEntries(names.map((name) => [name, [record(name, name === "startContainer" ? "/log" : log)]])),
  };
}
const recorded = (name: Name, what: string): string => readFileSync(join(log, `${name}.${what}`), "utf8").trim();

describe("hooks", () => {
  it("run in their order and namespaces, with the state on stdin and their own environment alone (CVE-2025-23266, class-runtime-environment) #hooks", async () => {
    const container = await place.create(recording());
    const first = shell("exec sleep 1000", {
      env: ["PATH=/bin", "LD_PRELOAD=/evil.so", "GCONV_PATH=/evil", "NODE_OPTIONS=--require=/evil.js"],
    });
    await container.start(first);
    expect(lines(join(log, "order"))).toEqual(["prestart", "createRuntime", "createContainer"]);
    const own = readlinkSync("/proc/self/ns/mnt");
    const theirs = readlinkSync(`/proc/${first.pid}/ns/mnt`);
    await container.exec();
    expect(lines(join(log, "order"))).toEqual(["prestart", "createRuntime", "createContainer", "startContainer", "poststart"]);
    await end(container);
    expect(lines(join(log, "order"))).toEqual([...names]);
    expect(names.map((name) => recorded(name, "mnt"))).toEqual([own, own, theirs, theirs, own, own]);
    const common = { ociVersion: "1.3.0", id: container.id, bundle: "/some/bundle", annotations: { "com.example.key": "value" } };
    const states = names.map((name) => JSON.parse(recorded(name, "state")));
    expect(states).toEqual([
      { ...common, status: "creating", pid: first.pid },
      { ...common, status: "creating", pid: first.pid },
      { ...common, status: "creating", pid: 1 },
      { ...common, status: "created", pid: 1 },
      { ...common, status: "running", pid: first.pid },
      { ...common, status: "stopped" },
    ]);
    for (const name of names) {
      const env = recorded(name, "env")
        .split("\n")
        .filter((line) => !/^(PWD|SHLVL|_|OLDPWD)=/.test(line));
      expect(env, `CVE-2025-23266: environment of ${name}`).toEqual([`HOOK=${name}`, "PATH=/bin:/usr/bin"]);
      expect(recorded(name, "fds").split("\n"), `CVE-2024-21626: descriptors of ${name}`).toEqual(["0", "1", "2", "3"]);
    }
    expect(recorded("startContainer", "cwd")).toBe("/");
    expect(place.leftovers()).toEqual([]);
  });

  it("see the root at createContainer as their working directory, while paths are the runtime's #hooks", async () => {
    const seen = join(place.top, "log", "root");
    const container = await place.create({
      hooks: {
        createContainer: [
          script(`ls -d etc/passwd > ${seen}; ls proc/self/status >> ${seen}; test -e ${place.rootfs} && echo host >> ${seen}`),
        ],
      },
    });
    await container.start(shell("true"));
    expect(lines(seen)).toEqual(["etc/passwd", "proc/self/status", "host"]);
    await container.destroy();
  });

  it("of createRuntime may still change the container's mounts #hooks", async () => {
    const file = join(place.top, "log", "injected");
    writeFileSync(file, "from a hook");
    const container = await place.create({
      hooks: { createContainer: [script(`mount --bind ${file} etc/passwd`)] },
    });
    await container.run(shell("exec sleep 1000"));
    expect(await output(container, "cat /etc/passwd", { user: { uid: 0, gid: 0 } })).toBe("from a hook");
    await end(container);
    expect(readFileSync(join(place.rootfs, "etc/passwd"), "utf8")).toContain("root:");
  });

  it("run in user namespaces and joined PID namespaces too #hooks", async () => {
    const ids = [{ containerID: 0, hostID: 200_000, size: 65_536 }];
    const types = ["mnt", "uts", "ipc", "pid", "net", "user"] as const;
    const container = await place.create({
      namespaces: types.map((type) => ({ type })),
      uidMappings: ids,
      gidMappings: ids,
      hooks: { createContainer: [script("test $(id -u) = 0")], startContainer: [script("test $(id -u) = 0 && test $$ -gt 1")] },
    });
    await container.run(shell("exec sleep 1000"));
    await end(container);
  });
});

describe("a failing hook #hook-failures", () => {
  it.each(["prestart", "createRuntime", "createContainer"] as const)("of %s takes the container back", async (name) => {
    const container = await place.create({ hooks: { [name]: [script("true"), script("echo reason >&2; exit 3")] } });
    await expect(container.start(shell("true"))).rejects.toThrow(new RegExp(`error running ${name} hook #1: .*reason`, "s"));
    expect(await container.status()).toBe("stopped");
    expect(place.cgroups().filter((path) => path.includes(container.id))).toEqual([]);
    await container.destroy();
    expect(place.leftovers()).toEqual([]);
  });

  it("of startContainer ends it before its program runs", async () => {
    const container = await place.create({ hooks: { startContainer: [script("exit 1")] } });
    await container.start(shell("echo ran > /data/ran"));
    await expect(container.exec()).rejects.toThrow("error running startContainer hook #0: it failed without a word");
    await until(async () => (await container.status()) === "stopped");
    await container.destroy();
    expect(existsSync(join(place.rootfs, "data/ran"))).toBe(false);
  });

  it("of poststart ends it", async () => {
    const container = await place.create({ hooks: { poststart: [script("exit 9")] } });
    const first = shell("exec sleep 1000");
    await expect(container.run(first)).rejects.toThrow("error running poststart hook #0: exit status 9");
    expect((await container.wait()).signal).toBe(9);
    await container.destroy();
  });

  it("of poststop is only a warning, and the next one runs", async () => {
    const mark = join(place.top, "log", "poststop");
    const warnings: string[] = [];
    const listen = (warning: Error) => warnings.push(warning.message);
    process.on("warning", listen);
    const container = await place.create({ hooks: { poststop: [script("exit 1"), script(`echo ran > ${mark}`)] } });
    await container.run(shell("true"));
    await container.wait();
    await container.destroy();
    await until(() => warnings.length > 0);
    process.off("warning", listen);
    expect(warnings[0]).toContain("error running poststop hook #0: exit status 1");
    expect(lines(mark)).toEqual(["ran"]);
  });

  it("is one that takes too long, with all that it started (class-hook-time)", async () => {
    for (const name of ["createRuntime", "createContainer", "startContainer"] as const) {
      const container = await place.create({ hooks: { [name]: [script("sleep 1000 & sleep 1000", { timeout: 0.2 })] } });
      await expect(container.run(shell("true"))).rejects.toThrow(/ran past/);
      await until(async () => (await container.status()) === "stopped");
      await container.destroy();
    }
    expect(place.leftovers()).toEqual([]);
  });

  it("is one that is not there", async () => {
    for (const name of ["createRuntime", "createContainer"] as const) {
      const container = await place.create({ hooks: { [name]: [{ path: "/not/there" }] } });
      await expect(container.run(shell("true"))).rejects.toThrow(`error running ${name} hook #0`);
      await container.destroy();
    }
  });

  it.each([
    [{ prestart: [{ path: "relative" }] }, "is not absolute"],
    [{ prestart: [{ path: "/a", timeout: -1 }] }, "is not a time"],
    [{ prestart: [{ path: "/a", env: ["A"] }] }, "is not NAME=value"],
  ])("is refused beforehand where %j makes no sense", async (hooks, message) => {
    await expect(place.create({ hooks })).rejects.toThrow(message);
  });
});

it("hooks of config.json are those of the container", () => {
  const hooks = { createRuntime: [{ path: "/a", args: ["a", "b"], env: ["C=d"], timeout: 5 }] };
  const spec = { ociVersion: "1.3.0", root: { path: "/r" }, process: { cwd: "/", args: ["a"] }, hooks };
  expect(fromOciSpec(spec, "/b").config.hooks).toEqual(hooks);
});

describe("hooks of a restored container #hooks #checkpoint", () => {
  it("are those of the runtime's namespaces, when its own are there and when it goes on", async () => {
    const first = await place.sleeping();
    const imagesDirectory = join(place.top, "images");
    await first.checkpoint({ imagesDirectory });
    await first.destroy();
    const { hooks = {}, labels = {} } = recording();
    const network = script(`readlink /proc/$(sed 's/.*"pid":\\([0-9]*\\).*/\\1/')/ns/net > ${log}/network`);
    const container = await place.create({
      labels,
      hooks: { ...hooks, createRuntime: [...(hooks.createRuntime ?? []), network] },
    });
    await container.restore(shell("what it was"), { imagesDirectory });
    expect(lines(join(log, "order"))).toEqual(["prestart", "createRuntime", "poststart"]);
    const pid = container.state().init_process_pid;
    expect(JSON.parse(recorded("prestart", "state"))).toMatchObject({ id: container.id, status: "creating", pid });
    expect(JSON.parse(recorded("poststart", "state"))).toMatchObject({ status: "running", pid });
    expect(readFileSync(join(log, "network"), "utf8").trim()).toBe(readlinkSync(`/proc/${pid}/ns/net`));
    await end(container);
    expect(lines(join(log, "order")).at(-1)).toBe("poststop");
  });

  it("end it when they fail, before and after it goes on, and leave nothing", async () => {
    const first = await place.sleeping();
    const imagesDirectory = join(place.top, "images-failing");
    await first.checkpoint({ imagesDirectory });
    await first.destroy();
    for (const name of ["createRuntime", "poststart"] as const) {
      const container = await place.create({ hooks: { [name]: [script("echo no >&2; exit 1")] } });
      await expect(container.restore(shell("what it was"), { imagesDirectory })).rejects.toThrow(`error running ${name} hook #0`);
      expect(await container.status()).toBe("stopped");
      await container.destroy();
    }
    expect(place.cgroups()).toEqual([]);
  });
});
