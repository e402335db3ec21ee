import { describe, expect, it } from "vitest";
import { resolveSysctls, sysctlPath } from "../../../src/cri/translate-sysctls.ts";

const own = { network: "new", ipc: "new", uts: "new", user: null } as const;
const user = { uid: [], gid: [] };
const ask = (asked: Record<string, string>, namespaces: Parameters<typeof resolveSysctls>[2] = own) =>
  resolveSysctls(asked, {}, namespaces);

describe("sysctl names", () => {
  it.each([
    ["net.ipv4.ip_forward", "net/ipv4/ip_forward"],
    ["net/ipv4/ip_forward", "net/ipv4/ip_forward"],
    ["net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"],
    ["net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"],
  ])("%s is the file %s", (key, path) => {
    expect(sysctlPath(key)).toBe(path);
  });

  it.each([
    "",
    ".",
    "net..ipv4",
    "net.ipv4.",
    "/net/ipv4",
    "net/../kernel/core_pattern",
    "net.//.kernel",
    "net/ipv4/x\nkernel/core_pattern",
    "net.ipv4.a+kernel.core_pattern",
    "net.ipv4.a b",
    "net.ipv4.a=1",
  ])("refuse %j", (key) => {
    expect(() => ask({ [key]: "1" })).toThrow(expect.objectContaining({ code: "invalid_argument" }));
  });
});

describe("sysctls of a pod", () => {
  it.each([
    "net.core.somaxconn",
    "kernel.shm_rmid_forced",
    "kernel.sem",
    "kernel.msgmax",
    "fs.mqueue.msg_max",
    "kernel.domainname",
  ])("may be %s, which has a namespace of the pod's own", (key) => {
    expect(Object.keys(ask({ [key]: "1" }))).toEqual([key.replaceAll(".", "/")]);
  });

  it.each([
    ["net.core.somaxconn", { ...own, network: "host" }, /network namespace/],
    ["kernel.shmmax", { ...own, ipc: "host" }, /IPC namespace/],
    ["fs.mqueue.msg_max", { ...own, ipc: "host" }, /IPC namespace/],
    ["kernel.domainname", { ...own, uts: "host" }, /UTS namespace/],
    ["kernel.hostname", own, /hostname field/],
    ["user.max_user_namespaces", own, /no user namespace/],
    ["kernel.core_pattern", own, /not in a separate kernel namespace/],
    ["kernel.shm", own, /not in a separate kernel namespace/],
    ["kernel.yama.ptrace_scope", own, /not in a separate kernel namespace/],
    ["vm.max_map_count", own, /not in a separate kernel namespace/],
    ["fs.file-max", own, /not in a separate kernel namespace/],
    ["netfoo.x", own, /not in a separate kernel namespace/],
  ] as const)("may not be %s", (key, namespaces, message) => {
    expect(() => ask({ [key]: "1" }, namespaces)).toThrow(message);
  });

  it("may be user.* in a user namespace", () => {
    expect(ask({ "user.max_user_namespaces": "5" }, { ...own, user })).toEqual({ "user/max_user_namespaces": "5" });
  });

  it.each(["1+kernel.core_pattern=|/bin/evil", "1\nkernel.core_pattern=x", "1\0", "a=b", "ü", "1".repeat(5000)])(
    "refuse the value %j (CVE-2022-0811)",
    (value) => {
      expect(() => ask({ "kernel.shm_rmid_forced": value })).toThrow(/is not allowed/);
    },
  );

  it("keep values with several numbers", () => {
    expect(ask({ "net.ipv4.tcp_rmem": "4096 87380\t6291456" })).toEqual({ "net/ipv4/tcp_rmem": "4096 87380\t6291456" });
  });

  it("may not name one file twice", () => {
    expect(() => ask({ "net.ipv4.ip_forward": "1", "net/ipv4/ip_forward": "0" })).toThrow(/given twice/);
  });
});

describe("default sysctls", () => {
  const defaults = { "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647" };

  it("are set in a pod with its own network, unless it says otherwise", () => {
    expect(resolveSysctls({ "net/ipv4/ip_unprivileged_port_start": "1024" }, defaults, own)).toEqual({
      "net/ipv4/ip_unprivileged_port_start": "1024",
      "net/ipv4/ping_group_range": "0 2147483647",
    });
  });

  it("are not set on the node's network", () => {
    expect(resolveSysctls({}, defaults, { ...own, network: "host" })).toEqual({});
  });

  it("leave out the range of groups in a user namespace, which does not map them", () => {
    expect(resolveSysctls({}, defaults, { ...own, user })).toEqual({ "net/ipv4/ip_unprivileged_port_start": "0" });
  });
});
