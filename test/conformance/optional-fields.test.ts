/** Fields and calls that a node may never see used, and of which a wrong answer would go unnoticed for long. */

import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readlinkSync, rmSync, statSync } from "node:fs";
import { get } from "node:http";
import { join } from "node:path";
import { describe, expect } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { capabilitySet } from "./capabilities.ts";
import { cgroupVersion, containerCgroup } from "./cgroup.ts";
import { clause } from "./clause.ts";
import { codes, forever, refused, useCri } from "./cri.ts";

const cri = useCri();
const v2 = cgroupVersion === 2;
const context = (security_context: Message): Message => ({ linux: { security_context } });
const creation = async (more: Message): Promise<string> =>
  await cri.create(await cri.sharedPod(), cri.containerConfig(forever, more));

describe("a container that differs from its sandbox", () => {
  const namespace_options = { network: "POD", pid: "CONTAINER", ipc: "POD" };

  clause("network POD in a sandbox on the node's network: the sandbox's, which is the node's", async () => {
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(forever, context({ namespace_options })));
    expect((await cri.exec(id, "readlink /proc/self/ns/net")).out).toBe(readlinkSync("/proc/self/ns/net"));
  });

  clause("ipc POD in a sandbox on the node's IPC: the sandbox's, which is the node's", async () => {
    const pod = await cri.pod(context({ namespace_options: { network: "NODE", pid: "CONTAINER", ipc: "NODE" } }));
    const id = await cri.run(pod, cri.containerConfig(forever, context({ namespace_options })));
    expect((await cri.exec(id, "readlink /proc/self/ns/ipc")).out).toBe(readlinkSync("/proc/self/ns/ipc"));
  });

  clause("the node's network or IPC in a sandbox that has its own is refused", { needs: "pod network", ours: true }, async () => {
    const pod = await cri.pod({ hostname: "apart", ...context({ namespace_options }) });
    for (const more of [{ network: "NODE" }, { ipc: "NODE" }]) {
      const config = cri.containerConfig(forever, context({ namespace_options: { ...namespace_options, ...more } }));
      expect((await failure(cri.create(pod, config))).code).toBe(grpcStatus.INVALID_ARGUMENT);
    }
  });

  clause("port mappings that cannot be are an error, with the node's network too", { ours: true }, async () => {
    for (const wrong of [{ host_port: 70_000 }, { host_port: -1 }, { host_ip: "no address" }, { protocol: 9 }]) {
      const port_mappings = [{ protocol: "TCP", container_port: 80, host_port: 8080, ...wrong }];
      expect((await failure(cri.pod({ port_mappings }))).code, JSON.stringify(wrong)).toBe(grpcStatus.INVALID_ARGUMENT);
    }
  });
});

describe("limits", () => {
  /** Reads a file of the container's cgroup; undefined where this kernel or hierarchy does not count that. */
  const running = async (resources: Message): Promise<(file: string, controller: string) => string | undefined> => {
    const pod = await cri.sharedPod();
    const id = await cri.run(pod, cri.containerConfig(forever, { linux: { resources } }));
    return (file, controller) => {
      const directory = containerCgroup(pod.config.linux.cgroup_parent, id, controller);
      const path = join(directory ?? "/none", file);
      return existsSync(path) ? readFileSync(path, "utf8").trim() : undefined;
    };
  };
  const mib = 1 << 20;

  clause("memory_swap_limit_in_bytes is memory and swap together, where swap is counted", async () => {
    const value = await running({ memory_limit_in_bytes: 64 * mib, memory_swap_limit_in_bytes: 96 * mib });
    expect(value(v2 ? "memory.max" : "memory.limit_in_bytes", "memory")).toBe(String(64 * mib));
    const file = v2 ? "memory.swap.max" : "memory.memsw.limit_in_bytes";
    expect([undefined, String((v2 ? 32 : 96) * mib)]).toContain(value(file, "memory"));
  });

  clause("a swap limit below the memory limit is an error", async () => {
    const resources = { memory_limit_in_bytes: 64 * mib, memory_swap_limit_in_bytes: 32 * mib };
    await refused(
      creation({ linux: { resources } }).then((id) => cri.start(id)),
      codes.any,
    );
  });

  clause("hugepage_limits is the limit of each page size that the kernel has", async () => {
    const value = await running({ hugepage_limits: [{ page_size: "2MB", limit: 4 * mib }] });
    const file = v2 ? "hugetlb.2MB.max" : "hugetlb.2MB.limit_in_bytes";
    expect([undefined, String(4 * mib)]).toContain(value(file, "hugetlb"));
  });
});

describe("annotations of bandwidth", () => {
  const limitedTo = (rate: string): Message => ({
    hostname: "limited",
    annotations: { "kubernetes.io/ingress-bandwidth": rate, "kubernetes.io/egress-bandwidth": rate },
    ...context({ namespace_options: { network: "POD", pid: "CONTAINER", ipc: "POD" } }),
  });

  clause("a pod with rates gets its network", { needs: "pod network" }, async () => {
    const { id } = await cri.pod(limitedTo("10M"));
    expect((await cri.podStatus(id)).network.ip).not.toBe("");
  });

  clause("what is no rate, or is outside of 1k to 1P, is an error", { needs: "pod network" }, async () => {
    for (const rate of ["fast", "1", "2P", "-1M"]) await refused(cri.pod(limitedTo(rate)), codes.any);
  });
});

describe("mount_options", () => {
  const conditions = { since: "1.36", ours: true } as const;
  const mount = (...mount_options: string[]): Message => {
    const host_path = mkdtempSync(join(cri.endpoint.scratch, "options-"));
    return { mounts: [{ container_path: "/v", host_path, mount_options }] };
  };

  clause("noexec, nodev and nosuid are those of the mount", conditions, async () => {
    expect((await cri.runtime("Status", {})).features.mount_options).toBe(true);
    const { out } = await cri.says("grep ' /v ' /proc/self/mounts | cut -d' ' -f4", mount("noexec", "nodev", "nosuid"));
    expect(out.split(",")).toEqual(expect.arrayContaining(["noexec", "nodev", "nosuid"]));
  });

  clause("any other is an error", conditions, async () => {
    for (const option of ["suid", "exec", "size=1m", ""]) await refused(creation(mount(option)), codes.invalid);
  });
});

describe("add_ambient_capabilities", () => {
  clause("a user that is not root has them in effect", { since: "1.25", ours: true }, async () => {
    const capabilities = { add_capabilities: ["NET_ADMIN"], add_ambient_capabilities: ["NET_ADMIN"] };
    const more = context({ capabilities, run_as_user: { value: 4711 }, no_new_privs: true });
    const { out } = await cri.says("grep -E '^Cap(Eff|Amb)' /proc/self/status", more);
    for (const line of out.split("\n")) expect([...capabilitySet(line.slice(8))], line).toEqual(["NET_ADMIN"]);
  });

  clause("one that the container does not have is an error", { since: "1.25", ours: true }, async () => {
    const capabilities = { add_ambient_capabilities: ["SYS_TIME"] };
    expect((await failure(creation(context({ capabilities })))).code).toBe(grpcStatus.INVALID_ARGUMENT);
  });
});

describe("selinux_options", () => {
  const label = (more: Message): Message => context({ selinux_options: { user: "", role: "", type: "", level: "", ...more } });

  clause("where the node has no SELinux, options that could be are accepted and have no effect", async () => {
    if (existsSync("/sys/fs/selinux/enforce")) return;
    const { out } = await cri.says("cat /proc/self/attr/current 2>/dev/null || true", label({ level: "s0:c1,c2" }));
    expect(out).not.toContain("s0:c1,c2");
  });

  clause("a level that is none is an error", { ours: true }, async () => {
    for (const level of ["c1,c2", "s0:x1", "s0:c1 c2"]) {
      expect((await failure(creation(label({ level })))).code, level).toBe(grpcStatus.INVALID_ARGUMENT);
    }
  });
});

describe("volumes of an image", () => {
  const made = async (): Promise<Message> => ({
    image: { image: await cri.pull(`${cri.endpoint.registry}/conformance/volume:1`) },
  });

  clause("they have what the image has there, and can be written in a read-only root", { madeImages: true }, async () => {
    const more = { ...(await made()), ...context({ readonly_rootfs: true }) };
    const script = "cat /volume/given; touch /x 2>/dev/null || echo ro; echo new > /volume/new && cat /volume/new";
    expect((await cri.says(script, more)).out).toBe("of the image\nro\nnew");
  });

  clause("each container has its own", { madeImages: true }, async () => {
    const more = await made();
    await cri.says("touch /volume/left", more);
    expect((await cri.says("ls /volume", more)).out).toBe("given");
  });

  clause("a mount of the pod at the same place wins", { madeImages: true }, async () => {
    const host_path = join(cri.endpoint.scratch, "over-volume");
    mkdirSync(host_path, { recursive: true });
    const mounts = [{ container_path: "/volume", host_path }];
    expect((await cri.says("ls /volume | wc -l", { ...(await made()), mounts })).out).toBe("0");
  });
});

describe("CheckpointContainer", () => {
  clause("the file at location is a tar archive for checkpoint tools, and the container goes on", { since: "1.25" }, async () => {
    const script = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.02; done";
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(["/bin/sh", "-c", script]));
    const count = async (): Promise<number> => Number((await cri.exec(id, "cat /count")).out);
    await cri.until(async () => (await count()) > 1, "the container to count");
    const location = join(cri.endpoint.scratch, "made.tar");
    try {
      const answer = await cri.runtime("CheckpointContainer", { container_id: id, location, timeout: 60 }).then(
        () => undefined,
        (error: Message) => error,
      );
      // Others may have checkpoints switched off.
      if (answer?.code === grpcStatus.UNIMPLEMENTED && !cri.endpoint.own) return;
      expect(answer).toBeUndefined();
      expect(statSync(location).mode & 0o077).toBe(0);
      const members = execFileSync("tar", ["-tf", location], { encoding: "utf8" }).split("\n");
      expect(members).toEqual(expect.arrayContaining(["config.dump", "spec.dump"]));
      const then = await count();
      await cri.until(async () => (await count()) > then, "the container to go on");
    } finally {
      rmSync(location, { force: true });
    }
  });
});

describe("URLs that nobody comes for", () => {
  clause("there is a limit, told as RESOURCE_EXHAUSTED, and one that is used makes room", async () => {
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(forever));
    const urls: string[] = [];
    const ask = async (): Promise<Message | undefined> => {
      const request = { container_id: id, cmd: ["true"], stdout: true };
      try {
        urls.push((await cri.runtime("Exec", request)).url);
      } catch (error) {
        return error as Message;
      }
    };
    let refusal: Message | undefined;
    while (refusal === undefined && urls.length < 5_000) {
      refusal = (await Promise.all(Array.from({ length: 50 }, ask))).find((answer) => answer !== undefined);
    }
    const visit = async (url: string): Promise<void> => {
      const request = get(url.replace(/^https:/, "http:"), { agent: false });
      const [answer] = await once(request, "response");
      answer.resume();
      await once(answer, "close");
    };
    try {
      expect(refusal?.code).toBe(grpcStatus.RESOURCE_EXHAUSTED);
      await visit(urls.pop() ?? "");
      expect(await ask()).toBeUndefined();
    } finally {
      while (urls.length > 0) await Promise.all(urls.splice(-50).map(visit));
    }
  });
});

describe("GetContainerEvents, read slowly", () => {
  clause("every event comes, or the stream ends with an error: none is lost in silence", { since: "1.26" }, async () => {
    const stream = cri.client.stream("GetContainerEvents", {});
    const events: Message[] = [];
    let ended: Message | undefined;
    stream.on("data", (event: Message) => events.push(event)).on("error", (error) => (ended = error));
    try {
      let pod = await cri.pod();
      const there = () => events.some(({ container_id }) => container_id === pod.id);
      for (let tries = 1; !there() && tries < 100; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 50));
        if (tries % 20 === 0) pod = await cri.pod();
      }
      expect(there()).toBe(true);
      stream.pause();
      const wanted: string[] = [];
      for (let i = 0; i < 12; i++) {
        const config = cri.containerConfig(forever, { annotations: { large: "x".repeat(200_000) } });
        const id = await cri.create(pod, config);
        await cri.remove(id);
        wanted.push(`${id} CONTAINER_CREATED_EVENT`, `${id} CONTAINER_DELETED_EVENT`);
      }
      stream.resume();
      const told = () => new Set(events.map((one) => `${one.container_id} ${one.container_event_type}`));
      const complete = () => wanted.every((one) => told().has(one));
      await cri.until(async () => complete() || ended !== undefined, "all events, or the end of the stream");
      if (!complete()) expect(ended?.code).toBe(grpcStatus.RESOURCE_EXHAUSTED);
    } finally {
      stream.cancel();
    }
  });
});
