import { describe, expect, it } from "vitest";
import { resolveUser } from "../../../src/cri/translate-user.ts";
import { LinuxContainerSecurityContext } from "../../../src/gen/cri/v1/api.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import { rootfsOf } from "./translate-fixture.ts";

const passwd = [
  "root:x:0:0:root:/root:/bin/sh",
  "",
  "# a comment",
  "broken line",
  "bad:x:minus:1::/:",
  "huge:x:4294967296:0::/:",
  "web:x:1000:100:Web:/home/web:/bin/sh",
  "99999999999:x:0:0::/:",
  "1001:x:0:0::/:",
].join("\n");
const group = [
  "root:x:0:",
  "users:x:100:",
  "wheel:x:10:root,web",
  "video:x:44: web ,other",
  "bad:x:none:web",
  "docker:x:999:other",
].join("\n");
const files = { "/etc/passwd": passwd, "/etc/group": group };

type Asked = Parameters<typeof LinuxContainerSecurityContext.fromPartial>[0];
async function resolve(asked: Asked, imageUser = "", of: Readonly<Record<string, string>> = files) {
  return await resolveUser(LinuxContainerSecurityContext.fromPartial(asked), imageUser, rootfsOf(of));
}

describe("the user", () => {
  it("is root without a word from anybody", async () => {
    expect(await resolve({})).toEqual({ uid: 0, gid: 0, groups: [0, 10] });
  });

  it("takes the primary group from the image's passwd, and 0 when the uid is not in it", async () => {
    expect(await resolve({ runAsUser: { value: 1000n } })).toMatchObject({ uid: 1000, gid: 100 });
    expect(await resolve({ runAsUser: { value: 4242n } })).toEqual({ uid: 4242, gid: 0, groups: [0] });
  });

  it("is looked up by name", async () => {
    expect(await resolve({ runAsUsername: "web" })).toMatchObject({ uid: 1000, gid: 100 });
  });

  it("may have its group replaced", async () => {
    expect(await resolve({ runAsUser: { value: 1000n }, runAsGroup: { value: 7n } })).toMatchObject({ uid: 1000, gid: 7 });
    expect(await resolve({ runAsUsername: "web", runAsGroup: { value: 7n } })).toMatchObject({ uid: 1000, gid: 7 });
  });

  it.each([
    ["web", 1000, 100],
    ["1000", 1000, 100],
    ["web:44", 1000, 44],
    ["web:video", 1000, 44],
    ["1000:video", 1000, 44],
    ["4242:4243", 4242, 4243],
    ["2147483647", 2147483647, 0],
    [":44", 0, 44],
  ])("of the image may be %j", async (user, uid, gid) => {
    expect(await resolve({}, user)).toMatchObject({ uid, gid });
  });

  it("of the image counts only when the request names none", async () => {
    expect(await resolve({ runAsUser: { value: 5n } }, "web:video")).toMatchObject({ uid: 5, gid: 0 });
  });

  it("does not read a string of digits as a name (CVE-2026-46680, CVE-2016-3697)", async () => {
    expect(await resolve({ runAsUsername: "1001" })).toMatchObject({ uid: 1001 });
    expect(await resolve({}, "1001")).toMatchObject({ uid: 1001 });
  });

  it.each(["99999999999", "2147483648", "4294967296", "18446744073709551616", "-1", "+0", "1:99999999999"])(
    "of the image refuses the number %s (CVE-2024-40635)",
    async (user) => {
      await expect(resolve({}, user)).rejects.toThrow(/outside of 0 to 2147483647/);
    },
  );

  it.each([-1n, 2147483648n, 4294967296n, -(2n ** 63n)])("refuses run_as_user %s", async (value) => {
    await expect(resolve({ runAsUser: { value } })).rejects.toThrow(/run_as_user .* outside of 0 to 2147483647/);
  });

  it("refuses a group or supplemental group out of range", async () => {
    await expect(resolve({ runAsUser: { value: 1n }, runAsGroup: { value: 2n ** 32n } })).rejects.toThrow(/run_as_group/);
    await expect(resolve({ supplementalGroups: [-1n] })).rejects.toThrow(/supplemental group -1/);
  });

  it("refuses a group without a user, and two users", async () => {
    await expect(resolve({ runAsGroup: { value: 7n } })).rejects.toThrow(/run_as_group is set without run_as_user/);
    await expect(resolve({ runAsGroup: { value: 7n } }, "web")).rejects.toThrow(/run_as_group is set without run_as_user/);
    await expect(resolve({ runAsUser: { value: 1n }, runAsUsername: "web" })).rejects.toThrow(/must not both be set/);
  });

  it("refuses names that the image does not know", async () => {
    await expect(resolve({ runAsUsername: "nobody" })).rejects.toThrow(/unable to find user "nobody".*passwd/);
    await expect(resolve({}, "web:nogroup")).rejects.toThrow(/unable to find group "nogroup"/);
    await expect(resolve({ runAsUsername: "web" }, "", {})).rejects.toMatchObject({ code: "invalid_argument" });
  });

  it.each(["web:video", "we b", "web\nroot", "web\0"])("refuses run_as_username %j", async (runAsUsername) => {
    await expect(resolve({ runAsUsername })).rejects.toThrow(/is not a valid name/);
  });

  it("skips lines of passwd that make no sense, also those with ids out of range", async () => {
    await expect(resolve({ runAsUsername: "bad" })).rejects.toThrow(/unable to find/);
    await expect(resolve({ runAsUsername: "huge" })).rejects.toThrow(/unable to find/);
  });

  it("hands on the error of a passwd that is too large or no file (CVE-2025-4437, CVE-2024-9676)", async () => {
    const rootfs = {
      readFile: async (path: string, maxBytes: number): Promise<Buffer> => {
        throw new RuntimeError("invalid_argument", `${path} is larger than ${maxBytes} bytes`);
      },
    };
    const asked = LinuxContainerSecurityContext.fromPartial({});
    await expect(resolveUser(asked, "", rootfs)).rejects.toThrow("/etc/passwd is larger than 1048576 bytes");
  });
});

describe("additional groups", () => {
  it("are those of the image, those of the request and the primary one, sorted, each once (CVE-2022-36109)", async () => {
    const { groups } = await resolve({ runAsUsername: "web", supplementalGroups: [3000n, 44n, 5n] });
    expect(groups).toEqual([5, 10, 44, 100, 3000]);
  });

  it("are found for a uid by its name in the image", async () => {
    expect((await resolve({ runAsUser: { value: 1000n } })).groups).toEqual([10, 44, 100]);
  });

  it("with policy Strict are only those of the request and the primary one", async () => {
    const asked = { runAsUsername: "web", supplementalGroups: [3000n], supplementalGroupsPolicy: 1 as const };
    expect((await resolve(asked)).groups).toEqual([100, 3000]);
  });

  it("refuse an unknown policy", async () => {
    await expect(resolve({ supplementalGroupsPolicy: 7 as never })).rejects.toThrow(/supplemental_groups_policy 7/);
  });
});
