/** Containers of a user who is not root: the library by a process of that user, and the command. */
import { execFileSync } from "node:child_process";
import { chownSync, existsSync, globSync, mkdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Config, ProcessSpec } from "../../src/core/library/public.ts";
import { errnoName } from "../../src/lib/errors.ts";
import { LibraryPlace, until } from "../helpers/library-place.ts";
import { OrdinaryUser } from "../helpers/ordinary-user.ts";

let place: LibraryPlace;
let user: OrdinaryUser;
beforeAll(() => {
  place = new LibraryPlace();
  user = new OrdinaryUser(place);
});
afterAll(async () => {
  await place[Symbol.asyncDispose]();
});

const one = (containerID: number, hostID: number, size: number) => [{ containerID, hostID, size }];
const both = (mappings: ReturnType<typeof one>): Partial<Config> => ({ uidMappings: mappings, gidMappings: mappings });

function config(changes: Partial<Config> = {}): Config {
  const { cgroups: _, ...base } = place.config("unused");
  const namespaces = (["user", "mnt", "uts", "ipc", "pid", "net", "cgroup"] as const).map((type) => ({ type }));
  return { ...base, namespaces, ...both(one(0, user.uid, 1)), ...changes };
}

const sh = (script: string, spec: Partial<ProcessSpec> = {}): ProcessSpec => ({
  args: ["sh", "-c", script],
  env: ["PATH=/bin"],
  ...spec,
});
const written = (name: string): string => readFileSync(join(place.rootfs, "tmp", name), "utf8").trim();
const task = (id: string, changes: Partial<Config>, ...steps: object[]) => ({
  stateDir: user.stateDir,
  id,
  config: config(changes),
  steps,
});
const failure = (lines: readonly Record<string, unknown>[]) => lines.find((line) => "error" in line)?.error;

/** Its helper, which stood in the cgroup of who started it, may be a moment behind the container's end. */
function removed(cgroup: string): boolean {
  try {
    rmdirSync(cgroup);
    return true;
  } catch (error) {
    if (errnoName(error) === "EBUSY") return false;
    throw error;
  }
}

describe("with its own id alone", () => {
  it("runs, joins and destroys a container in namespaces of its own, and cannot drop groups (CVE-2014-8989) #rootless #start-run #exec #wait #signal #destroy #ns-new #id-mappings #loopback #bound-devices", async () => {
    const facts = "id -u; cat /proc/self/uid_map; ip -o link show up; hostname; stat -c %F /dev/null; echo x > /dev/null";
    const lines = await user.act(
      task(
        "rootless",
        {},
        { do: "run", process: sh(`{ ${facts.replaceAll(";", " &&")}; } > /tmp/init 2>&1; touch /tmp/done; sleep 1000`) },
        { do: "status" },
        {
          do: "exec-wait",
          process: sh("until [ -e /tmp/done ]; do sleep 0.01; done; { id -u; cat /proc/self/setgroups; } > /tmp/exec"),
        },
        { do: "signal", signal: "KILL" },
        { do: "wait" },
        { do: "destroy" },
      ),
    );
    expect(lines.map(({ result, error }) => error ?? result)).toMatchObject([
      null,
      "running",
      { exitCode: 0 },
      null,
      { signal: 9 },
      null,
    ]);
    const [uid, map, link, name, kind] = written("init").split("\n");
    expect([uid, map?.trim().split(/\s+/)]).toEqual(["0", ["0", String(user.uid), "1"]]);
    expect([link, name, kind]).toEqual([expect.stringContaining("lo:"), "library", "character special file"]);
    expect(written("exec").split("\n")).toEqual(["0", "deny"]);
    expect(globSync(`${user.stateDir}/*`)).toEqual([]);
  });

  it("has a root of layers, which stay what they are #overlay-root", async () => {
    const layers = ["one", "two"].map((name) => join(user.stateDir, "layers", name));
    for (const layer of layers) mkdirSync(join(layer, "etc"), { recursive: true });
    for (const [at, layer] of layers.entries()) writeFileSync(join(layer, "etc/layer"), `layer ${at}`);
    const [upper, work] = [join(user.stateDir, "upper"), join(user.stateDir, "work")];
    execFileSync("chown", ["-R", `${user.uid}:${user.uid}`, join(user.stateDir, "layers")]);
    const script = "cat /etc/layer; rm /etc/passwd; ls /etc; echo changed > /etc/layer; stat -c %u /etc/layer";
    const lines = await user.act(
      task(
        "layered",
        { overlay: { layers, upper, work } },
        { do: "run", process: sh(`(${script}) > /tmp/layered`) },
        { do: "wait" },
        { do: "destroy" },
      ),
    );
    expect(failure(lines)).toBeUndefined();
    const seen = readFileSync(join(upper, "tmp/layered"), "utf8");
    expect(seen).toBe("layer 0group\nlayer\n0\n");
    expect(statSync(join(upper, "etc/layer")).uid).toBe(user.uid);
    expect(existsSync(join(place.rootfs, "etc/passwd"))).toBe(true);
    expect(readFileSync(join(layers[0] ?? "", "etc/layer"), "utf8")).toBe("layer 0");
    expect(failure(await user.act(task("mapped", { idmapRoot: true })))).toContain("idmapRoot can be had by root only");
  });

  it("is told what nobody has handed over to it #rootless", async () => {
    const limits = "limits need a cgroup that belongs to the user";
    const refused = [{ resources: { pids: { limit: 5 } } }, { path: "/caisson-not-mine" }];
    const said = await Promise.all(refused.map(async (cgroups) => failure(await user.act(task("refused", { cgroups })))));
    for (const words of said) expect(words).toContain(limits);
    const process = sh("true", { user: { uid: 0, gid: 0, additionalGids: [0] } });
    expect(failure(await user.act(task("groups", {}, { do: "run", process })))).toContain("additional groups need more");
  });
});

describe("with subordinate ids, by newuidmap", () => {
  const range = () => [...one(0, user.uid, 1), ...one(1, user.firstSubordinate, 65536)];

  it("has other users and groups #newuidmap #user", async () => {
    const other = await user.act(
      task(
        "other",
        both(range()),
        { do: "run", process: sh("chmod 1777 /tmp; sleep 1000") },
        {
          do: "exec-wait",
          process: sh("until [ -k /tmp ]; do :; done; id -u > /tmp/other; id -G >> /tmp/other", {
            user: { uid: 1000, gid: 1001, additionalGids: [2000] },
          }),
        },
        { do: "signal", signal: "KILL" },
        { do: "wait" },
        { do: "destroy" },
      ),
    );
    expect(failure(other)).toBeUndefined();
    expect(written("other").split("\n")).toEqual(["1000", "1001 2000"]);
  });

  it("is refused ids that are nobody's to give #newuidmap", async () => {
    const mappings = [...one(0, user.uid, 1), ...one(1, 5_000_000, 10)];
    const lines = await user.act(task("foreign", both(mappings), { do: "run", process: sh("true") }));
    expect(failure(lines)).toMatch(/newuidmap does not map 0 43210 1 1 5000000 10 for user 43210: .*\(see \/etc\/subuid\)/s);
  });
});

describe("in a cgroup that was handed over", () => {
  it("has limits, freezes, and leaves nothing #cgroupfs #pids #set #pause #cgroup-removal", async () => {
    const given = globSync("/sys/fs/cgroup/{pids,freezer,unified}").map((hierarchy) => join(hierarchy, place.cgroup));
    for (const directory of given) {
      mkdirSync(directory);
      for (const path of [directory, ...globSync(`${directory}/{cgroup.procs,cgroup.subtree_control,tasks}`)])
        chownSync(path, user.uid, user.uid);
    }
    const unified = given.find((directory) => existsSync(`${directory}/cgroup.kill`) || existsSync(`${directory}/cgroup.freeze`));
    const cgroup = unified === undefined ? undefined : join(unified, "caller");
    if (cgroup !== undefined) mkdirSync(cgroup);
    try {
      const cgroups = { path: `${place.cgroup}/limited`, resources: { pids: { limit: 20 } } };
      const lines = await user.act(
        task(
          "limited",
          { cgroups },
          { do: "run", process: sh("sleep 1000") },
          { do: "set", resources: { pids: { limit: 30 } } },
          { do: "pause" },
          { do: "status" },
          { do: "resume" },
          { do: "exec-wait", process: sh("cat /proc/self/cgroup > /tmp/cgroup") },
          { do: "set", resources: { memory: { limit: 1 << 26 } } },
        ),
        cgroup === undefined ? {} : { cgroup },
      );
      expect(readFileSync(join("/sys/fs/cgroup/pids", place.cgroup, "limited/pids.max"), "utf8").trim()).toBe("30");
      expect(lines.slice(0, 6).map(({ result, error }) => error ?? result)).toMatchObject([
        null,
        null,
        null,
        "paused",
        null,
        { exitCode: 0 },
      ]);
      expect(failure(lines)).toContain("no cgroup controller memory");
      expect(failure(lines)).toContain("limits need a cgroup that belongs to the user");
      // As its own cgroup namespace shows it.
      expect(written("cgroup")).toMatch(/:pids:\/$/m);
      const steps = [{ do: "signal", signal: "KILL" }, { do: "wait" }, { do: "destroy" }];
      expect(failure(await user.act({ stateDir: user.stateDir, id: "limited", steps }))).toBeUndefined();
      expect(given.flatMap((directory) => globSync(`${directory}/limited`))).toEqual([]);
    } finally {
      if (cgroup !== undefined) await until(() => removed(cgroup));
      for (const directory of given) rmdirSync(directory);
    }
  });
});

describe("the command", () => {
  it("runs the bundle that spec --rootless begins, and keeps its states in XDG_RUNTIME_DIR #command #oci-config", async () => {
    const bundle = join(place.top, "bundle");
    mkdirSync(bundle);
    chownSync(bundle, user.uid, user.uid);
    const caisson = user.path("scripts/caisson");
    expect(await user.run([caisson, "spec", "--rootless", "--bundle", bundle])).toMatchObject({ code: 0, err: "" });
    const file = join(bundle, "config.json");
    const spec = JSON.parse(readFileSync(file, "utf8"));
    const process = {
      ...spec.process,
      terminal: false,
      args: ["sh", "-c", "id -u; ls /proc/1/root/bin/sh; exit 3"],
      env: ["PATH=/bin"],
    };
    writeFileSync(file, JSON.stringify({ ...spec, process, root: { path: place.rootfs } }));
    expect(await user.run([caisson, "run", "--keep", "--bundle", bundle, "by-command"])).toEqual({
      code: 3,
      out: "0\n/proc/1/root/bin/sh\n",
      err: "",
    });
    expect(JSON.parse(readFileSync(join(user.stateDir, "caisson/by-command/state.json"), "utf8")).rootless).toBe(true);
    expect(await user.run([caisson, "delete", "by-command"])).toMatchObject({ code: 0, err: "" });
    expect(globSync(`${user.stateDir}/caisson/*`)).toEqual([]);
  });
});
