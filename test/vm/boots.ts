/** What scripts/test-vm boots, and what it runs there. One boot for all files that need the same kernel and the same init. */
import type { Chosen } from "./harness/bundle.ts";

export interface Boot {
  readonly name: string;
  /** Of scripts/vm-run. */
  readonly options: readonly string[];
  readonly files: readonly Chosen[];
}

/** Pure cgroup v2 beside a tiny init, with this machine's own root below a tmpfs, and an empty disk to set throttles for. */
const plain = ["--root", "host", "--disk", "16"];
const v1 = ["--append", "systemd.unified_cgroup_hierarchy=0"];

/** Where `scripts/test-vm FILE...` runs them. */
export const byHand: Boot = { name: "by hand", options: plain, files: [] };

export const boots: readonly Boot[] = [
  {
    name: "systemd",
    options: ["--mode", "systemd"],
    files: [{ file: "test/vm/systemd-driver.test.ts" }, { file: "test/vm/systemd.test.ts" }],
  },
  {
    name: "v2",
    options: plain,
    files: [
      { file: "test/vm/pods.test.ts" },
      { file: "test/vm/resources.test.ts" },
      {
        file: "test/integration/library.test.ts",
        cases: "state.json|cgroup that is in use|pauses|limits|counts|want of memory|pressure",
      },
      {
        file: "test/integration/checkpoint.test.ts",
        cases: "goes on from there|masks|leaves a paused|(CRIU|helper) is killed|paused again .cgroup",
      },
    ],
  },
  {
    name: "v2-library",
    options: plain,
    files: [
      { file: "test/vm/cgroups.test.ts" },
      {
        file: "test/integration/library-namespaces.test.ts",
        cases:
          "makes all at once|user namespace be made|clocks of|sets sysctls|its mounts too|read-only where|as its config|below the container",
      },
      {
        file: "test/integration/library.test.ts",
        cases:
          "is stopped, created|before exec|asks later|to the first process|where no PID|streams, one|only stdio|terminal that can|one by one",
      },
      { file: "test/integration/library-resources.test.ts", cases: "device rules change" },
    ],
  },
  {
    name: "systemd-v1",
    options: ["--mode", "systemd", ...v1],
    // What has nothing to do with the hierarchy was shown on v2.
    files: [{ file: "test/vm/systemd-driver.test.ts", cases: "^(?!.*(killed after|re-executing|without the bus|library's))" }],
  },
  {
    name: "selinux",
    options: ["--root", "host", "--append", "security=selinux selinux=1 enforcing=0"],
    files: [{ file: "test/vm/selinux.test.ts" }],
  },
];
