/** What init and an exec inherit, compared with what was asked: nothing of the daemon's or the shim's may leak into a container. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { dirname } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compileFixture } from "../helpers/compile.ts";
import type { Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";

let node: CriNode;
let pod: Message;
let id: string;
let init: Record<string, string>;
let exec: Record<string, string>;

const parse = (text: string): Record<string, string> =>
  Object.fromEntries(
    text
      .split("@@")
      .slice(1)
      .map((part) => [part.slice(0, part.indexOf("\n")), part.slice(part.indexOf("\n") + 1).trim()]),
  );
const field = (files: Record<string, string>, name: string): string =>
  new RegExp(`^${name}:\\s*(.*)$`, "m").exec(files.status ?? "")?.[1] ?? "";

beforeAll(async () => {
  node = await CriNode.start();
  const program = compileFixture("inherit");
  pod = node.podConfig("inherit");
  const podId = await node.runPod(pod);
  const config = node.containerConfig("main", ["/x/inherit", "1000"], {
    mounts: [{ container_path: "/x", host_path: dirname(program), readonly: true }],
    linux: {
      resources: { oom_score_adj: 500, memory_limit_in_bytes: 64 << 20 },
      security_context: { no_new_privs: true, run_as_user: { value: "1000" }, supplemental_groups: ["3000"] },
    },
  });
  id = await node.run(podId, pod, config);
  for (let tries = 0; tries < 100 && !node.log("inherit", "main").includes("@@end"); tries++)
    await new Promise((r) => setTimeout(r, 20));
  init = parse(node.log("inherit", "main").replaceAll(/^std\w+ F /gm, ""));
  exec = parse((await node.exec(id, ["/x/inherit"])).stdout);
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
});

describe.each([
  ["init", () => init],
  ["an exec", () => exec],
])("%s", (_, files) => {
  it("has default signal dispositions and an empty mask #clean-start", () => {
    for (const set of ["SigBlk", "SigIgn"]) expect(field(files(), set)).toMatch(/^0+$/);
    expect(field(files(), "SigCgt")).toMatch(/^0+$/);
  });
  it("has the user, groups, capabilities and flags that were asked for", () => {
    expect(field(files(), "Uid")).toBe("1000\t1000\t1000\t1000");
    expect(field(files(), "Gid")).toBe("1000\t1000\t1000\t1000");
    expect(field(files(), "Groups").trim().split(" ").toSorted()).toEqual(["100", "1000", "2000", "3000"]);
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"]) expect(field(files(), set)).toMatch(/^0+$/);
    expect(field(files(), "CapBnd")).toBe("00000000a80425fb");
    expect(field(files(), "NoNewPrivs")).toBe("1");
    expect(field(files(), "Seccomp")).toBe("2");
  });
  it("has every processor, no inherited slack, priority or umask #clean-start", () => {
    const own = /^Cpus_allowed_list:\s*(.*)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    expect(field(files(), "Cpus_allowed_list")).toBe(own);
    expect(["", "50000"]).toContain(files().timerslack_ns);
    expect(files().nice).toBe("0");
    expect(files().umask).toBe("0022");
    expect(files().policy).toBe("0");
    expect(files().ioprio).toBe("0");
  });
  it("has its oom score and the daemon's hard limits, with no raised soft limit of Node's", () => {
    expect(files().oom_score_adj).toBe("500");
    const limits = readFileSync("/proc/self/limits", "utf8");
    const row = (text: string, name: string): string[] =>
      new RegExp(`^${name}\\s+(\\S+)\\s+(\\S+)`, "m").exec(text)?.slice(1, 3) ?? [];
    expect(row(files().limits ?? "", "Max open files")[1]).toBe(row(limits, "Max open files")[1]);
    expect(row(files().limits ?? "", "Max core file size")).toEqual(row(limits, "Max core file size"));
  });
  it("has only its standard descriptors (class-descriptor-audit) #clean-start", () => {
    const rows = (files().fd ?? "").split("\n").toSorted();
    expect(rows.map((row) => row.split(" ")[0])).toEqual(["0", "1", "2"]);
    expect(rows[0]).toBe("0 /dev/null");
    for (const row of rows.slice(1)) expect(row).toMatch(/pipe:/);
  });
  it("has a session of its own", () => {
    const [pid, pgrp, session] = (files().ids ?? "").split(" ");
    expect(pgrp).toBe(pid);
    expect(session).toBe(pid);
  });
});

it("keeps the daemon's higher priority to the thread that answers calls", async () => {
  const niceOf = (path: string): string => readFileSync(path, "utf8").split(") ")[1]?.split(" ")[16] ?? "";
  const { pid } = node.daemon;
  expect(niceOf(`/proc/${pid}/task/${pid}/stat`)).toBe("-10");
  const pods = `${node.daemon.state}/pods`;
  for (const name of readdirSync(pods)) {
    const helper = JSON.parse(readFileSync(`${pods}/${name}/shim.json`, "utf8")) as { pid: number };
    expect(niceOf(`/proc/${helper.pid}/stat`)).toBe("0");
  }
});

it("puts init and exec into the same namespaces and cgroup, which are not the node's", async () => {
  const own = (kind: string): string => readlinkSync(`/proc/self/ns/${kind}`);
  const names = (files: Record<string, string>): Record<string, string> =>
    Object.fromEntries((files.ns ?? "").split("\n").map((row) => row.split(" ") as [string, string]));
  expect(names(exec)).toEqual(names(init));
  for (const kind of ["mnt", "pid", "ipc"]) expect(names(init)[kind]).not.toBe(own(kind));
  for (const kind of ["net", "user", "time"]) expect(names(init)[kind]).toBe(own(kind));
  const cgroups = readFileSync(`/proc/${(await node.info(id)).pid}/cgroup`, "utf8")
    .trim()
    .split("\n");
  for (const row of cgroups) expect(row, "every hierarchy").toMatch(new RegExp(`${node.cgroupParent}/pod-inherit/${id}$`));
  expect(exec.cgroup).toBe(init.cgroup);
});
