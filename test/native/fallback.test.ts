/** Older kernels and stricter sandboxes: each newer call answers ENOSYS, and either something else does the job or the refusal is clear. */
import { execFileSync } from "node:child_process";
import { chownSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Op } from "../../src/core/plan.ts";
import { noSlot, nsKind, podPin } from "../../src/core/plan-schema.ts";
import { attach, bind, buildPlanExec, container, overlayStep, Scratch } from "./plan-runner.ts";

let scratch: Scratch;
beforeAll(() => {
  buildPlanExec();
  scratch = new Scratch();
});
afterAll(() => scratch[Symbol.dispose]());

const sh = (script: string): readonly string[] => ["/bin/sh", "-c", script];
const everything =
  "openat2,close_range,setns_pidfd,overlay_lowerdir,overlay_fsconfig,private_proc,proc_pidns,fchmodat2,tiocgptpeer,statx_mnt_id";

it.each([
  ["openat2"],
  ["close_range"],
  ["private_proc"],
  ["fchmodat2"],
  ["statx_mnt_id"],
  ["overlay_lowerdir"],
  ["overlay_lowerdir,overlay_fsconfig"],
  ["tiocgptpeer"],
  ["pivot_root"],
  [everything],
])("sets up the same container without %s", async (deny) => {
  const out = await scratch.run(
    container(scratch, {
      args: sh(
        "tty; ls -1 /proc/self/fd; touch /written; stat -c %a /dev/null /sticky; cat /etc/volume /proc/self/oom_score_adj; wc -c < /proc/uptime; readlink /proc/self/cwd",
      ),
      before: [
        { op: "oom-score-adj", value: 12n },
        { op: "sysctl", key: "kernel/shm_rmid_forced", value: "1" },
      ],
      open: [bind(4, scratch.file("volume", "volume\n"))],
      mounts: [attach(4, "/etc/volume"), { op: "mkdir", path: "/sticky", mode: 0o1777, uid: 0, gid: 0, force: 0 }],
      masked: ["/proc/uptime", "/proc/fs"],
      stdio: [{ op: "console", rows: 0, cols: 0, bindConsole: 1, export: 0 }],
      identity: [{ op: "cwd", path: "/made/up", create: 1 }],
    }),
    { deny },
  );
  expect(out.failed).toBe("");
  expect(out.stdout.replaceAll("\r", "")).toBe("/dev/pts/0\n0\n1\n2\n3\n666\n1777\nvolume\n12\n0\n/made/up\n");
});

it.each([["open_tree"], ["move_mount"], ["fsopen"], ["mount_setattr"]])(
  "refuses in words of the kernel without %s",
  async (deny) => {
    const open: Op[] = [
      bind(4, scratch.directory("source")),
      { op: "mount-attr", slot: 4, set: 1, clear: 0, propagation: 0, recursive: 0, userns: noSlot },
    ];
    const out = await scratch.run(
      [
        overlayStep(scratch, `refuse-${deny}`),
        { cloneKinds: nsKind.mnt, plan: [...open, { op: "attach-host", slot: 4, path: scratch.path }] },
      ],
      { deny },
    );
    expect(out.failed).toMatch(/^failed \S+ errno=38 /);
  },
);

const ways = [
  ["one by one", ""],
  ["in one string", "overlay_lowerdir"],
  ["by mount(2)", "overlay_lowerdir,overlay_fsconfig"],
] as const;

it.each(ways)("stacks layers topmost first, %s", async (_way, deny) => {
  scratch.file("top/etc/which", "top");
  scratch.file("middle/etc/which", "middle");
  scratch.file("middle/etc/below", "middle");
  const out = await scratch.run(
    container(scratch, { args: ["/bin/cat", "/etc/which", "/etc/below"] }, ["top", "middle", "lower"]),
    { deny },
  );
  expect(out.failed).toBe("");
  expect(out.stdout).toBe("topmiddle");
});

it.each(ways)("hands out an overlay that can be read through its descriptor, %s", async (_way, deny) => {
  const into = scratch.directory(`into-${deny}`);
  scratch.file("lower/seed/file", "seed");
  const before = scratch.mounts();
  const out = await scratch.run(
    [
      overlayStep(scratch, `handed-${deny}`),
      {
        cloneKinds: 0,
        plan: [
          { op: "use-root", slot: 3 },
          { op: "open-host", out: 4, path: into },
          { op: "copy-tree", path: "/seed", into: 4 },
        ],
      },
    ],
    { deny },
  );
  expect(out.failed).toBe("");
  expect(readdirSync(into)).toEqual(["file"]);
  expect(scratch.mounts()).toBe(before);
});

it.each([
  ["one by one", ""],
  ["by mount(2)", "overlay_lowerdir,overlay_fsconfig"],
])("id-maps each lower layer, %s", async (_way, deny) => {
  chownSync(scratch.file("owned/etc/owned", "x"), 5, 6);
  const name = `mapped-${deny}`;
  const pod: Op[] = [
    { op: "new-userns", uidMap: "0 100000 1000\n", gidMap: "0 100000 1000\n" },
    { op: "open-own-ns", out: 9, kind: nsKind.user },
    { op: "pin", slot: 9, pin: podPin.user },
  ];
  const into = scratch.directory(`mapped-into-${deny}`);
  const out = await scratch.run(
    [
      { cloneKinds: 0, plan: pod },
      overlayStep(scratch, name, ["owned", "lower"], podPin.user),
      {
        cloneKinds: 0,
        plan: [
          { op: "use-root", slot: 3 },
          { op: "open-host", out: 4, path: into },
          { op: "copy-tree", path: "/etc", into: 4 },
        ],
      },
    ],
    { deny },
  );
  expect(out.failed).toBe("");
  expect(execFileSync("stat", ["-c", "%u:%g", join(into, "owned")], { encoding: "utf8" })).toBe("100005:100006\n");
});

it.each([
  ["one by one", ""],
  ["by mount(2)", "overlay_lowerdir,overlay_fsconfig"],
])("takes 300 layers with long and odd names, %s", async (_way, deny) => {
  const lowers = Array.from({ length: 300 }, (_, i) => {
    const name = `many/${"n".repeat(120)}/${"m".repeat(120)}:${i},x`;
    scratch.file(`${name}/layers/${i}`, "");
    return name;
  });
  const out = await scratch.run(container(scratch, { args: sh("ls /layers | wc -l") }, [...lowers, "lower"]), { deny });
  expect(out.failed).toBe("");
  expect(out.stdout).toBe("300\n");
});

it("names the layer that is missing", async () => {
  const missing = join(scratch.path, "missing");
  const out = await scratch.run([
    {
      cloneKinds: 0,
      plan: [{ op: "overlay", out: 4, lowers: [missing], upper: "", work: "", options: [], attrs: 0, idmap: noSlot }],
    },
  ]);
  expect(out.failed).toMatch(new RegExp(`^failed overlay errno=2 ${missing}`));
});

it("passes on the kernel's own words about an option", async () => {
  const out = await scratch.run([
    { cloneKinds: 0, plan: [{ op: "fsmount", out: 4, type: "tmpfs", source: "tmpfs", options: ["nonsense=1"], attrs: 0 }] },
  ]);
  expect(out.failed).toBe("failed fsmount errno=22 nonsense=1: tmpfs: Unknown parameter 'nonsense'");
});
