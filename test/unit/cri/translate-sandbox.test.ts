import { describe, expect, it } from "vitest";
import { options, podId, runDir, sandbox, securedPod } from "./translate-fixture.ts";

const hostNetwork = securedPod({ namespaceOptions: { network: 2 } });
const parent = (cgroupParent: string) => ({ linux: { cgroupParent } });
const invalid = expect.objectContaining({ code: "invalid_argument" });

describe("a sandbox", () => {
  it("becomes a pod of the core", () => {
    expect(sandbox().spec).toEqual({
      id: podId,
      hostname: "web-host",
      network: "new",
      ipc: "new",
      uts: "new",
      pid: "pod",
      user: null,
      runDir,
      netnsPath: `/run/netns/caisson-${podId}`,
      shmBytes: options.shmBytes,
    });
  });

  it("tells the network who the pod is and what it wants", () => {
    const { network } = sandbox({
      portMappings: [
        { protocol: 1, containerPort: 53, hostPort: 5353, hostIp: "127.0.0.1" },
        { protocol: 2, containerPort: 9, hostPort: 9 },
        { protocol: 0, containerPort: 80, hostPort: 0 },
      ],
      dnsConfig: { servers: ["10.0.0.10"], searches: ["svc"], options: ["ndots:5"] },
      annotations: { "kubernetes.io/egress-bandwidth": "10M" },
    });
    expect(network).toEqual({
      podId,
      name: "web",
      namespace: "shop",
      uid: "uid-1",
      netnsPath: `/run/netns/caisson-${podId}`,
      cgroupParent: "/kubepods/poduid-1",
      portMappings: [
        { protocol: "udp", containerPort: 53, hostPort: 5353, hostIp: "127.0.0.1" },
        { protocol: "sctp", containerPort: 9, hostPort: 9, hostIp: "" },
      ],
      dns: { servers: ["10.0.0.10"], searches: ["svc"], options: ["ndots:5"] },
      annotations: { "kubernetes.io/egress-bandwidth": "10M" },
    });
  });

  it.each([
    { hostPort: 65_536, containerPort: 1 },
    { hostPort: -1, containerPort: 1 },
    { hostPort: 1, containerPort: 0 },
    { hostPort: 1, containerPort: 70_000 },
    { hostPort: 1, containerPort: 1, protocol: 7 as never },
    { hostPort: 1, containerPort: 1, hostIp: "1.1.1.1;x" },
  ])("refuses the port mapping %j", (mapping) => {
    expect(() => sandbox({ portMappings: [mapping] })).toThrow(invalid);
  });

  it("is privileged only when it says so", () => {
    expect(sandbox().privileged).toBe(false);
    expect(sandbox(securedPod({ privileged: true })).privileged).toBe(true);
  });

  it("refuses a log directory that is not absolute", () => {
    expect(() => sandbox({ logDirectory: "logs" })).toThrow(invalid);
    expect(() => sandbox({ logDirectory: "/var/log/../../etc" })).toThrow(invalid);
  });
});

describe("the host name", () => {
  it.each(["web", "web-0.shop", "a_b", "x".repeat(64)])("may be %s", (hostname) => {
    expect(sandbox({ hostname }).spec.hostname).toBe(hostname);
    expect(sandbox({ hostname }).files.hostname).toBe(`${hostname}\n`);
  });

  it.each(["x".repeat(65), "a b", "a\nb", "-a", "a-", "a/b", "ü"])("may not be %j", (hostname) => {
    expect(() => sandbox({ hostname })).toThrow(invalid);
  });

  it("is the node's on the node's network, else the start of the id, when none is given", () => {
    expect(sandbox({ ...hostNetwork, hostname: "" }).spec.hostname).toBe("node-7");
    expect(sandbox({ hostname: "" }).spec.hostname).toBe("a".repeat(12));
  });
});

describe("the pod's files", () => {
  it("hold the DNS config in the order that resolvers expect", () => {
    const dnsConfig = { servers: ["10.0.0.10", "fd00::10"], searches: ["a.svc", "svc"], options: ["ndots:5", "edns0"] };
    expect(sandbox({ dnsConfig }).files.resolvConf).toBe(
      "search a.svc svc\nnameserver 10.0.0.10\nnameserver fd00::10\noptions ndots:5 edns0\n",
    );
  });

  it("copy the node's resolv.conf without a DNS config, and are empty with an empty one", () => {
    expect(sandbox().files.resolvConf).toBeNull();
    expect(sandbox({ dnsConfig: {} }).files.resolvConf).toBe("");
  });

  it.each([{ servers: ["1.1.1.1\nnameserver 6.6.6.6"] }, { searches: ["a b"] }, { options: [""] }, { servers: ["1.1.1.1\0"] }])(
    "refuse a DNS config that would forge lines: %j",
    (dnsConfig) => {
      expect(() => sandbox({ dnsConfig })).toThrow(invalid);
    },
  );

  it("have the node's hosts on the node's network, else the loopback names", () => {
    expect(sandbox(hostNetwork).files.hosts).toBeNull();
    expect(sandbox().files.hosts).toMatch(/^127\.0\.0\.1\tlocalhost\n::1\t/);
  });
});

describe("the cgroup parent", () => {
  it.each([
    ["/kubepods/burstable/poduid", "/kubepods/burstable/poduid"],
    ["/kubepods//pod/", "/kubepods/pod"],
    ["kubepods/pod", "/kubepods/pod"],
  ])("%s is %s, and not ours to remove", (asked, path) => {
    expect(sandbox(parent(asked))).toMatchObject({ cgroupParent: path, ownsCgroupParent: false });
  });

  it("is one of ours when none is given", () => {
    expect(sandbox(parent(""))).toMatchObject({ cgroupParent: `/caisson/pods/${podId}`, ownsCgroupParent: true });
  });

  describe("with the systemd driver", () => {
    const onSystemd = (cgroupParent: string) => sandbox(parent(cgroupParent), { ...options, cgroupDriver: "systemd" });

    it.each([
      "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
      "kubepods-burstable-pod1_2.slice",
      "/elsewhere/kubepods-burstable-pod1_2.slice",
    ])("is where the name of the slice says: %s", (asked) => {
      expect(onSystemd(asked)).toMatchObject({
        cgroupParent: "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
        ownsCgroupParent: false,
      });
    });

    it("is a slice of ours when none is given", () => {
      expect(onSystemd("")).toMatchObject({
        cgroupParent: `/caisson.slice/caisson-pod${podId}.slice`,
        ownsCgroupParent: true,
      });
    });

    it("refuses what is no slice, and says what to do", () => {
      expect(() => onSystemd("/kubepods/pod1")).toThrow(/no systemd slice.*cgroupDriver: systemd/);
    });

    it.each(["/-.slice", "/a--b.slice", "/.slice", "/a b.slice", `/${"x".repeat(256)}.slice`])("refuses %j", (asked) => {
      expect(() => onSystemd(asked)).toThrow(invalid);
    });
  });

  it("refuses a slice of systemd, and says what to do", () => {
    expect(() => sandbox(parent("/kubepods.slice/kubepods-pod1.slice"))).toThrow(/systemd slice.*cgroupDriver: cgroupfs/);
  });

  it.each(["/", "/a/../b", "/a\nb", "/a\0", `/${"x".repeat(256)}`, `/${"x/".repeat(2000)}y`])("refuses %j", (asked) => {
    expect(() => sandbox(parent(asked))).toThrow(invalid);
  });
});
