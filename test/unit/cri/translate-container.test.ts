import { describe, expect, it } from "vitest";
import { containerId, fakeNode, podId, secured, securedPod, translate } from "./translate-fixture.ts";

describe("a container", () => {
  it("becomes an OCI spec", async () => {
    const { oci } = await translate({ config: { command: ["/bin/app"], tty: true, workingDir: "/work" } });
    expect(oci).toMatchObject({
      ociVersion: "1.3.0",
      root: { path: `/run/caisson/containers/${containerId}/rootfs`, readonly: false },
      process: {
        terminal: true,
        args: ["/bin/app"],
        env: ["PATH=/bin", "HOSTNAME=web-host", "TERM=xterm"],
        cwd: "/work",
        user: { uid: 0, gid: 0, additionalGids: [0] },
        rlimits: [],
        noNewPrivileges: false,
        oomScoreAdj: 0,
      },
      linux: { cgroupsPath: `/kubepods/poduid-1/${containerId}`, maskedPaths: [], readonlyPaths: [] },
    });
    expect(oci.linux.namespaces).toBeUndefined();
  });

  it("masks and protects exactly what is asked for: nothing means nothing", async () => {
    const { linux } = (
      await translate({ config: secured({ maskedPaths: ["/proc/kcore", "/sys/firmware"], readonlyPaths: ["/proc/sys"] }) })
    ).oci;
    expect(linux.maskedPaths).toEqual(["/proc/kcore", "/sys/firmware"]);
    expect(linux.readonlyPaths).toEqual(["/proc/sys"]);
  });

  it.each(["proc/kcore", "/proc/../etc", "", "/a\0"])("refuses the masked path %j", async (path) => {
    await expect(translate({ config: secured({ maskedPaths: [path] }) })).rejects.toMatchObject({ code: "invalid_argument" });
    await expect(translate({ config: secured({ readonlyPaths: [path] }) })).rejects.toMatchObject({ code: "invalid_argument" });
  });

  it("takes no_new_privs, the read-only root and the OOM score", async () => {
    const config = { linux: { resources: { oomScoreAdj: 999n }, securityContext: { noNewPrivs: true, readonlyRootfs: true } } };
    const { oci } = await translate({ config });
    expect(oci.process).toMatchObject({ noNewPrivileges: true, oomScoreAdj: 999 });
    expect(oci.root.readonly).toBe(true);
  });

  it("reports the user with the primary group among the others", async () => {
    const config = secured({ runAsUser: { value: 1000n }, runAsGroup: { value: 50n }, supplementalGroups: [7n] });
    const result = await translate({ config });
    expect(result.user).toEqual({ uid: 1000, gid: 50, supplementalGroups: [7, 50] });
    expect(result.oci.process.user).toEqual({ uid: 1000, gid: 50, additionalGids: [7, 50] });
  });

  it("carries annotations about itself, never those of the request (CVE-2024-3154)", async () => {
    const { oci } = await translate({ config: { annotations: { "org.systemd.property.ExecStartPre": "x" } } });
    expect(oci.annotations).toEqual({
      "io.kubernetes.cri.container-type": "container",
      "io.kubernetes.cri.container-name": "app",
      "io.kubernetes.cri.image-name": "shop/app:1",
      "io.kubernetes.cri.sandbox-id": podId,
      "io.kubernetes.cri.sandbox-name": "web",
      "io.kubernetes.cri.sandbox-namespace": "shop",
      "io.kubernetes.cri.sandbox-uid": "uid-1",
    });
  });

  it("has a cgroup namespace of its own on cgroup v2 only", async () => {
    const kind = async (cgroupVersion: "v1" | "v2" | "hybrid") =>
      (await translate({ node: fakeNode({ cgroupVersion }) })).cgroupNamespace;
    expect([await kind("v2"), await kind("v1"), await kind("hybrid")]).toEqual(["private", "host", "host"]);
  });

  it("notes capabilities that the daemon lacks", async () => {
    const { notes } = await translate({ node: fakeNode({ capabilities: new Set(["CAP_CHOWN", "CAP_SETUID"]) }) });
    expect(notes).toEqual(["the daemon itself lacks CAP_NET_RAW: left out of the container's capabilities"]);
  });
});

describe("a privileged container", () => {
  const privileged = {
    config: secured({ privileged: true, noNewPrivs: true, maskedPaths: ["/proc/kcore"], readonlyPaths: ["/proc/sys"] }),
  };

  it("needs a privileged sandbox", async () => {
    await expect(translate(privileged)).rejects.toThrow(/needs a privileged sandbox/);
  });

  it("has every capability, nothing masked, no no_new_privs and the node's cgroup namespace", async () => {
    const result = await translate({ ...privileged, pod: securedPod({ privileged: true }) });
    expect(result.oci.linux).toMatchObject({ maskedPaths: [], readonlyPaths: [] });
    expect(result.oci.process.noNewPrivileges).toBe(false);
    expect(result.oci.process.capabilities?.bounding).toHaveLength(41);
    expect(result.cgroupNamespace).toBe("host");
  });
});

describe("the log path", () => {
  it.each(["../x.log", "a/../../x.log", "a/..", "..", "/../x", ".", "/", "a\nb", "dir/"])(
    "may not be %j (CVE-2025-0750)",
    async (logPath) => {
      await expect(translate({ config: { logPath } })).rejects.toThrow(/log_path/);
    },
  );
});
