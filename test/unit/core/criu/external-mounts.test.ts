import { describe, expect, it } from "vitest";
import { externalMounts, parseMountTable } from "../../../../src/core/criu/external-mounts.ts";

const container = parseMountTable(`67 43 0:90 / / rw,relatime - overlay overlay rw
68 67 254:0 /etc/hosts /etc/hosts ro,relatime shared:7 - ext4 /dev/vda rw
69 67 0:41 / /proc rw,nosuid - proc proc rw
70 67 0:42 / /dev rw,nosuid - tmpfs tmpfs rw,mode=755
71 70 0:44 / /dev/pts rw - devpts devpts rw
72 70 0:70 / /dev/shm rw - tmpfs shm rw
73 69 0:6 /null /proc/kcore rw - devtmpfs udev rw
74 69 0:47 / /proc/acpi ro - tmpfs none ro
75 69 0:41 /sys /proc/sys ro - proc proc rw
76 67 0:91 / /with\\040space rw - overlay overlay rw
`);
const host = parseMountTable(`20 1 254:0 / / rw - ext4 /dev/vda rw
21 20 0:6 / /dev rw - devtmpfs udev rw
22 20 0:70 / /run/pod/shm rw - tmpfs shm rw
`);

describe("externalMounts", () => {
  it("are what the host has as well, what CRIU cannot make, and masks", () => {
    expect(externalMounts(container, host, ["/proc/acpi", "/proc/kcore"])).toEqual([
      "/etc/hosts",
      "/dev/shm",
      "/proc/kcore",
      "/proc/acpi",
      "/with space",
    ]);
  });

  it("leaves the container's own to CRIU", () => {
    expect(externalMounts(container, host, [])).not.toContain("/proc/acpi");
    expect(externalMounts(container, host, [])).not.toContain("/dev/pts");
  });

  it("refuses a mount point that CRIU would read otherwise", () => {
    const odd = parseMountTable("68 67 254:0 /x /data]:/etc rw - ext4 /dev/vda rw\n");
    expect(() => externalMounts(odd, host, [])).toThrow('has a name with ":" or "]"');
  });
});
