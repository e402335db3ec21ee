/** RunPodSandbox, StopPodSandbox, RemovePodSandbox, PodSandboxStatus. */

import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { hostname } from "node:os";
import { describe, expect } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { freePort } from "../helpers/free-port.ts";
import { clause } from "./clause.ts";
import { codes, forever, now, refused, unique, unknownId, useCri } from "./cri.ts";

const cri = useCri();
const pods = { needs: "pod network" } as const;
const listed = async (pod: Message): Promise<Message[]> =>
  await cri.sandboxes({ label_selector: { pod: pod.labels.pod, suite: "conformance" } });

describe("RunPodSandbox", () => {
  clause("the reply has a non-empty id and the sandbox is READY on return", async () => {
    const { id } = await cri.pod();
    expect(id).not.toBe("");
    expect(await cri.podStatus(id)).toMatchObject({ id, state: "SANDBOX_READY" });
  });

  clause("ids are 64 lower-case hex characters, as agents expect", async () => {
    const pod = await cri.pod();
    expect(pod.id).toMatch(/^[0-9a-f]{64}$/);
    expect(await cri.create(pod, cri.containerConfig(["/bin/true"]))).toMatch(/^[0-9a-f]{64}$/);
  });

  clause("config and metadata are required", async () => {
    const config = cri.podConfig();
    await refused(cri.runtime("RunPodSandbox", { config: { ...config, metadata: undefined } }), codes.invalid);
    await refused(cri.runtime("RunPodSandbox", {}), codes.invalid);
  });

  // containerd 1.6 makes it.
  clause("a sandbox without a name, a namespace or a uid is refused: its status would not be accepted", async () => {
    const config = cri.podConfig();
    for (const field of ["name", "namespace", "uid"]) {
      const metadata = { ...config.metadata, [field]: "" };
      const call = cri.podOf({ ...config, metadata });
      await refused(call, codes.invalid);
    }
    expect(await listed(config)).toEqual([]);
  });

  clause("an unknown runtime_handler is an error", async () => {
    const config = cri.podConfig();
    await refused(cri.podOf(config, "no-such-handler"), codes.any);
    expect(await listed(config)).toEqual([]);
  });

  clause("the same metadata and attempt twice never makes a second sandbox", async () => {
    const { id, config } = await cri.pod();
    const again = await cri.podOf(config).then(
      (pod) => pod.id,
      () => id,
    );
    expect(again).toBe(id);
    expect(await listed(config)).toHaveLength(1);
  });

  clause("names are reserved atomically: of parallel calls for one sandbox at most one makes it", async () => {
    const config = cri.podConfig();
    const results = await Promise.allSettled([1, 2, 3, 4].map(() => cri.podOf(config)));
    const ids = new Set(results.flatMap((result) => (result.status === "fulfilled" ? [result.value.id] : [])));
    expect(ids.size).toBe(1);
    expect((await listed(config)).map((sandbox) => sandbox.id)).toEqual([...ids]);
  });

  clause("a caller that gives up may ask again with the same name, and there is one sandbox in the end", async () => {
    for (const patienceMs of [1, 8, 20]) {
      const config = cri.podConfig();
      const asked = cri.client.runtime("RunPodSandbox", { config }, 60_000, AbortSignal.timeout(patienceMs));
      await asked.catch(() => undefined);
      // Both are in use: the name is free again, or the call answers with the finished one; failing that, it is found in the list.
      const id = await cri.until(async () => {
        const pod = await cri.podOf(config).catch(() => undefined);
        return pod?.id ?? (await listed(config))[0]?.id;
      }, "the sandbox");
      expect((await listed(config)).map((sandbox) => [sandbox.id, sandbox.state])).toEqual([[id, "SANDBOX_READY"]]);
      await cri.removePod(id);
    }
  });

  clause("a new attempt makes a new sandbox beside the old one that is not ready", async () => {
    const first = await cri.pod();
    await cri.runtime("StopPodSandbox", { pod_sandbox_id: first.id });
    const second = await cri.podOf({ ...first.config, metadata: { ...first.config.metadata, attempt: 1 } });
    expect(second.id).not.toBe(first.id);
    const states = (await listed(first.config)).map((sandbox) => [sandbox.metadata.attempt, sandbox.state]);
    expect(states.sort()).toEqual([
      [0, "SANDBOX_NOTREADY"],
      [1, "SANDBOX_READY"],
    ]);
  });

  clause("a sandbox that fails is undone: it is not listed and its name is free", async () => {
    const config = cri.podConfig();
    const broken = { ...config, linux: { ...config.linux, sysctls: { "vm.swappiness": "13" } } };
    await refused(cri.podOf(broken), codes.any);
    expect(await listed(config)).toEqual([]);
    const { id } = await cri.podOf(config);
    expect(await cri.podStatus(id)).toMatchObject({ state: "SANDBOX_READY" });
  });

  clause("sysctls are applied in the sandbox's namespaces", async () => {
    const before = readFileSync("/proc/sys/kernel/msgmax", "utf8");
    const pod = await cri.pod({ linux: { sysctls: { "kernel.msgmax": "4242" } } });
    expect(await cri.says("cat /proc/sys/kernel/msgmax", {}, pod)).toMatchObject({ out: "4242" });
    expect(readFileSync("/proc/sys/kernel/msgmax", "utf8")).toBe(before);
  });

  clause("net sysctls reach the sandbox's network namespace", { needs: "pod network" }, async () => {
    const pod = await cri.pod({
      hostname: "net-sysctl",
      linux: {
        sysctls: { "net.ipv4.ip_local_port_range": "20000 20010" },
        security_context: { namespace_options: { network: "POD", pid: "CONTAINER", ipc: "POD" } },
      },
    });
    const more = { linux: { security_context: { namespace_options: { network: "POD", pid: "CONTAINER" } } } };
    expect((await cri.says("cat /proc/sys/net/ipv4/ip_local_port_range", more, pod)).out).toMatch(/^20000\s20010$/);
  });

  clause("a sysctl of the host fails creation", async () => {
    const before = readFileSync("/proc/sys/vm/swappiness", "utf8");
    await refused(cri.pod({ linux: { sysctls: { "vm.swappiness": "13" } } }), codes.any);
    expect(readFileSync("/proc/sys/vm/swappiness", "utf8")).toBe(before);
  });
});

describe("PodSandboxStatus", () => {
  clause("id, metadata, labels and annotations are exactly as given", async () => {
    const labels = { "a.example/label": "value", empty: "", "io.kubernetes.pod.uid": "u-1" };
    const annotations = {
      "b.example/note": 'any text: {"json": true}\n\ttabs, \u00fcml\u00e4uts, \u{1F6A2}',
      empty: "",
      " odd key ": "x",
    };
    const { id, config } = await cri.pod({ labels, annotations, metadata: { attempt: 7 } });
    expect(await cri.podStatus(id)).toMatchObject({ id, metadata: config.metadata, labels, annotations });
    const [item] = await cri.sandboxes({ id });
    expect(item).toMatchObject({ id, metadata: config.metadata, labels, annotations });
  });

  clause("created_at is in nanoseconds since the epoch", async () => {
    const before = now() - 1_000_000_000n;
    const { id } = await cri.pod();
    const created = BigInt((await cri.podStatus(id)).created_at);
    expect(created > before && created < now() + 1_000_000_000n).toBe(true);
  });

  clause("linux.namespaces.options echoes the namespace options that were asked for", async () => {
    const { id } = await cri.pod({
      linux: { security_context: { namespace_options: { network: "NODE", pid: "NODE", ipc: "NODE" } } },
    });
    const { linux } = await cri.podStatus(id);
    expect(linux.namespaces.options).toMatchObject({ network: "NODE", pid: "NODE", ipc: "NODE" });
  });

  clause("the address is empty with the host's network", async () => {
    const { id } = await cri.pod();
    expect((await cri.podStatus(id)).network?.ip ?? "").toBe("");
  });

  clause("network.ip is the pod's first address, and empty once the sandbox is stopped", { needs: "pod network" }, async () => {
    const namespace_options = { network: "POD", pid: "CONTAINER", ipc: "POD" };
    const pod = await cri.pod({ hostname: "addressed", linux: { security_context: { namespace_options } } });
    const { ip } = (await cri.podStatus(pod.id)).network;
    expect(ip).toMatch(/^[0-9a-f.:]+$/);
    const { out } = await cri.says("ip -o addr show eth0", { linux: { security_context: { namespace_options } } }, pod);
    expect(out).toContain(` ${ip}/`);
    await cri.runtime("StopPodSandbox", { pod_sandbox_id: pod.id });
    expect((await cri.podStatus(pod.id)).network?.ip ?? "").toBe("");
  });

  clause("info is given only when verbose is asked for", async () => {
    const { id } = await cri.pod();
    expect((await cri.runtime("PodSandboxStatus", { pod_sandbox_id: id })).info).toEqual({});
    const { info } = await cri.runtime("PodSandboxStatus", { pod_sandbox_id: id, verbose: true });
    expect(typeof JSON.parse(info.info)).toBe("object");
  });

  clause("any unambiguous prefix of an id is accepted wherever an id is", async () => {
    const { id } = await cri.pod();
    const prefix = id.slice(0, 20);
    expect((await cri.podStatus(prefix)).id).toBe(id);
    await cri.runtime("StopPodSandbox", { pod_sandbox_id: prefix });
    expect((await cri.podStatus(id)).state).toBe("SANDBOX_NOTREADY");
    await cri.runtime("RemovePodSandbox", { pod_sandbox_id: prefix });
    await refused(cri.podStatus(id), codes.missing);
  });
});

describe("StopPodSandbox", () => {
  clause("the sandbox is NOTREADY and stays listed, its containers are EXITED", async () => {
    const pod = await cri.pod();
    const id = await cri.run(pod, cri.containerConfig(forever));
    await cri.runtime("StopPodSandbox", { pod_sandbox_id: pod.id });
    expect((await cri.podStatus(pod.id)).state).toBe("SANDBOX_NOTREADY");
    expect((await cri.sandboxes({ id: pod.id })).map((sandbox) => sandbox.state)).toEqual(["SANDBOX_NOTREADY"]);
    expect(await cri.status(id)).toMatchObject({ state: "CONTAINER_EXITED" });
  });

  // containerd 1.6 answers NotFound, which the kubelet takes for done.
  clause("an unknown id succeeds", async () => {
    await cri.runtime("StopPodSandbox", { pod_sandbox_id: unknownId });
  });

  clause("it is idempotent: a stopped sandbox succeeds, also from several callers at once", async () => {
    const { id } = await cri.pod();
    await cri.runtime("StopPodSandbox", { pod_sandbox_id: id });
    await cri.runtime("StopPodSandbox", { pod_sandbox_id: id });
    await Promise.all([1, 2, 3].map(() => cri.runtime("StopPodSandbox", { pod_sandbox_id: id })));
  });

  clause("no container is created or started after it", async () => {
    const pod = await cri.pod();
    const created = await cri.create(pod, cri.containerConfig(forever));
    await cri.runtime("StopPodSandbox", { pod_sandbox_id: pod.id });
    await refused(cri.create(pod, cri.containerConfig(forever)), codes.any);
    await refused(cri.start(created), codes.any);
    expect((await cri.status(created)).state).not.toBe("CONTAINER_RUNNING");
  });
});

describe("RemovePodSandbox", () => {
  clause("the sandbox and its containers are gone: not listed, and their status is NotFound", async () => {
    const pod = await cri.pod();
    const id = await cri.run(pod, cri.containerConfig(["/bin/true"]));
    await cri.removePod(pod.id);
    await refused(cri.podStatus(pod.id), codes.missing);
    await refused(cri.status(id), codes.missing);
    expect(await cri.sandboxes({ id: pod.id })).toEqual([]);
    expect(await cri.containers({ id })).toEqual([]);
  });

  clause("running containers and a ready sandbox are stopped by force first", async () => {
    const pod = await cri.pod();
    const id = await cri.run(pod, cri.containerConfig(forever));
    await cri.runtime("RemovePodSandbox", { pod_sandbox_id: pod.id });
    await refused(cri.podStatus(pod.id), codes.missing);
    await refused(cri.status(id), codes.missing);
  });

  clause("it is idempotent: an unknown id and a removed sandbox succeed", async () => {
    await cri.runtime("RemovePodSandbox", { pod_sandbox_id: unknownId });
    const { id } = await cri.pod();
    await cri.removePod(id);
    await cri.runtime("RemovePodSandbox", { pod_sandbox_id: id });
  });

  clause("the name is free again", async () => {
    const { id, config } = await cri.pod();
    await cri.removePod(id);
    expect((await cri.podOf(config)).id).not.toBe(id);
  });
});

describe("names and addresses of a sandbox", () => {
  clause("the host's network brings the host's name", async () => {
    expect(await cri.says("hostname")).toMatchObject({ out: hostname() });
  });

  clause("the hostname is set in the UTS namespace, in HOSTNAME and in /etc/hostname", { needs: "pod network" }, async () => {
    const namespace_options = { network: "POD", pid: "CONTAINER", ipc: "POD" };
    const pod = await cri.pod({ hostname: "named-pod", linux: { security_context: { namespace_options } } });
    const more = { linux: { security_context: { namespace_options } } };
    expect((await cri.says("hostname; echo $HOSTNAME; cat /etc/hostname", more, pod)).out).toBe(
      "named-pod\nnamed-pod\nnamed-pod",
    );
  });

  clause("resolv.conf has search, then one nameserver a line, then options", async () => {
    const dns_config = { servers: ["192.0.2.1", "192.0.2.2"], searches: ["a.test", "b.test"], options: ["ndots:5", "timeout:1"] };
    const { out } = await cri.says("cat /etc/resolv.conf", {}, await cri.pod({ dns_config }));
    const lines = ["search a.test b.test", "nameserver 192.0.2.1", "nameserver 192.0.2.2", "options ndots:5 timeout:1"];
    expect(out).toBe(lines.join("\n"));
  });

  clause("without a DNS config the host's resolv.conf is copied", async () => {
    const copied = await cri.says("cat /etc/resolv.conf", {}, await cri.pod());
    expect(copied.out).toBe(readFileSync("/etc/resolv.conf", "utf8").trim());
  });

  clause("with a DNS config that is empty the file is empty", { ours: true }, async () => {
    const empty = await cri.says("test -e /etc/resolv.conf && cat /etc/resolv.conf", {}, await cri.pod({ dns_config: {} }));
    expect(empty).toMatchObject({ out: "", code: 0 });
  });

  clause("/dev/shm is the pod's: a tmpfs of 64 MiB, mode 1777, nosuid, nodev, noexec, shared by its containers", async () => {
    const pod = await cri.pod();
    const mark = unique("mark");
    const script = `echo ${mark} > /dev/shm/mark; stat -c %a /dev/shm; grep ' /dev/shm ' /proc/mounts; df -k /dev/shm | tail -n 1`;
    const [mode = "", mount = "", size = ""] = (await cri.says(script, {}, pod)).out.split("\n");
    expect(mode).toBe("1777");
    expect(mount.split(" ")[2]).toBe("tmpfs");
    expect(mount.split(" ")[3]?.split(",")).toEqual(expect.arrayContaining(["nosuid", "nodev", "noexec"]));
    expect(size.split(/\s+/)[1]).toBe("65536");
    expect(await cri.says("cat /dev/shm/mark", {}, pod)).toMatchObject({ out: mark });
  });
});

describe("port mappings", () => {
  const namespace_options = { network: "POD", pid: "CONTAINER", ipc: "POD" };
  const linux = { security_context: { namespace_options } };
  const greeting = (port: number): Promise<string> =>
    new Promise((resolve, reject) => {
      const socket = connect(port, "127.0.0.1");
      let text = "";
      socket
        .on("data", (data) => (text += data))
        .on("end", () => resolve(text))
        .on("error", reject);
    });

  clause("a host port leads to the pod's port, on loopback too, and is closed again with the sandbox", pods, async () => {
    const port = await freePort();
    const port_mappings = [{ protocol: "TCP", container_port: 80, host_port: port }];
    const pod = await cri.pod({ hostname: "mapped", port_mappings, linux });
    const script = "while :; do echo hello | nc -l -p 80; done";
    await cri.run(pod, cri.containerConfig(["/bin/sh", "-c", script], { linux }));
    const answer = async (): Promise<string | undefined> => await greeting(port).catch(() => undefined);
    expect(await cri.until(answer, `an answer on port ${port}`)).toBe("hello\n");
    await cri.runtime("StopPodSandbox", { pod_sandbox_id: pod.id });
    await expect(greeting(port)).rejects.toThrow(/ECONNREFUSED/);
  });

  clause("a host port of 0 is no mapping, and with the host's network there is none to make", pods, async () => {
    const port_mappings = [{ protocol: "TCP", container_port: 80, host_port: 0 }];
    const mapped = await cri.pod({ hostname: "unmapped", port_mappings, linux });
    const host = await cri.pod({ port_mappings: [{ protocol: "TCP", container_port: 80, host_port: await freePort() }] });
    for (const { id } of [mapped, host]) expect((await cri.podStatus(id)).state).toBe("SANDBOX_READY");
  });
});
