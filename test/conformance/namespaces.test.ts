/** Namespace modes of sandboxes and containers, and where their cgroups are. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { describe, expect } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { cgroupVersion, containerCgroup } from "./cgroup.ts";
import { clause } from "./clause.ts";
import { codes, forever, type PodHandle, refused, unknownId, useCri } from "./cri.ts";
import { textOf } from "./log-records.ts";

const cri = useCri();
const of = (namespace_options: Message): Message => ({ linux: { security_context: { namespace_options } } });
const hostNamespace = (kind: string): string => readlinkSync(`/proc/self/ns/${kind}`);
const kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] as const;
// The container stays: the numbers of namespaces that have gone are used again.
const script = `for n in ${kinds.join(" ")}; do readlink /proc/self/ns/$n; done; echo $$; echo end; sleep 1000`;

type Seen = Readonly<Record<(typeof kinds)[number] | "self", string>>;
const seen = async (pod: PodHandle, namespace_options: Message): Promise<Seen> => {
  const id = await cri.run(pod, cri.containerConfig(["/bin/sh", "-c", script], of(namespace_options)));
  const lines = textOf(await cri.logged(id, "end\n"), "stdout").split("\n");
  return Object.fromEntries([...kinds, "self"].map((kind, i) => [kind, lines[i] ?? ""])) as Seen;
};
const podAndTwo = async (namespace_options: Message): Promise<[Seen, Seen]> => {
  const pod = await cri.pod({ hostname: namespace_options.network === "NODE" ? "" : "ns", ...of(namespace_options) });
  return [await seen(pod, namespace_options), await seen(pod, namespace_options)];
};

describe("PID namespaces", () => {
  clause("CONTAINER: a namespace of its own, in which the process is the first", async () => {
    const [first, second] = await podAndTwo({ network: "NODE", pid: "CONTAINER", ipc: "POD" });
    expect(first.self).toBe("1");
    expect(new Set([first.pid, second.pid, hostNamespace("pid")]).size).toBe(3);
  });

  clause("POD: one namespace for all containers of the sandbox, in which none of them is the first", async () => {
    const options = { network: "NODE", pid: "POD", ipc: "POD" };
    const pod = await cri.pod(of(options));
    const long = await cri.run(pod, cri.containerConfig([...forever, "marked-4324"], of(options)));
    const other = await seen(pod, options);
    expect(other.self).not.toBe("1");
    expect(other.pid).not.toBe(hostNamespace("pid"));
    expect((await cri.exec(long, "readlink /proc/self/ns/pid")).out).toBe(other.pid);
    const { out } = await cri.says("ps -o args | grep marked-432[4]", of(options), pod);
    expect(out).toContain("marked-4324");
  });

  clause("the zero value is POD", async () => {
    const options = { network: "NODE", pid: "POD", ipc: "POD" };
    const pod = await cri.pod(of(options));
    const { pid, ...unset } = options;
    expect(pid).toBe("POD");
    expect((await seen(pod, unset)).pid).toBe((await seen(pod, options)).pid);
  });

  clause("NODE: the host's", async () => {
    const [first] = await podAndTwo({ network: "NODE", pid: "NODE", ipc: "POD" });
    expect(first.pid).toBe(hostNamespace("pid"));
  });

  clause("TARGET: that of the container which target_id names", async () => {
    const pod = await cri.sharedPod();
    const target = await cri.run(pod, cri.containerConfig(forever));
    const { pid, self } = await seen(pod, { network: "NODE", pid: "TARGET", ipc: "POD", target_id: target });
    expect((await cri.exec(target, "readlink /proc/self/ns/pid")).out).toBe(pid);
    expect(self).not.toBe("1");
  });

  clause("TARGET: a container that does not exist, is of another sandbox or does not run is an error", async () => {
    const pod = await cri.sharedPod();
    const joined = (target_id: string): Promise<string> =>
      cri.create(pod, cri.containerConfig(forever, of({ network: "NODE", pid: "TARGET", ipc: "POD", target_id })));
    await refused(joined(unknownId), codes.any);
    await refused(joined(""), codes.any);
    const stranger = await cri.run(await cri.pod(), cri.containerConfig(forever));
    await refused(joined(stranger), codes.any);
    const over = await cri.run(pod, cri.containerConfig(["/bin/true"]));
    await cri.exited(over);
    await refused(joined(over), codes.any);
    await refused(joined(await cri.create(pod, cri.containerConfig(forever))), codes.any);
  });

  clause("TARGET: the container must run at the start too", async () => {
    const pod = await cri.sharedPod();
    const target_id = await cri.run(pod, cri.containerConfig(forever));
    const options = of({ network: "NODE", pid: "TARGET", ipc: "POD", target_id });
    const id = await cri.create(pod, cri.containerConfig(forever, options));
    await cri.stop(target_id);
    await refused(cri.start(id), codes.any);
  });
});

describe("IPC namespaces", () => {
  clause("POD: one for all containers of the sandbox, not the host's", async () => {
    const [first, second] = await podAndTwo({ network: "NODE", pid: "CONTAINER", ipc: "POD" });
    expect(first.ipc).toBe(second.ipc);
    expect(first.ipc).not.toBe(hostNamespace("ipc"));
    const [other] = await podAndTwo({ network: "NODE", pid: "CONTAINER", ipc: "POD" });
    expect(other.ipc).not.toBe(first.ipc);
  });

  clause("NODE: the host's, with the host's /dev/shm", async () => {
    const options = { network: "NODE", pid: "CONTAINER", ipc: "NODE" };
    const pod = await cri.pod(of(options));
    expect((await seen(pod, options)).ipc).toBe(hostNamespace("ipc"));
    const { out } = await cri.says("ls -A /dev/shm | sort", of(options), pod);
    expect(out.split("\n").filter((name) => name !== "")).toEqual(readdirSync("/dev/shm").sort());
  });
});

describe("network and UTS namespaces", () => {
  clause("NODE: the host's network namespace and its UTS namespace or host name", async () => {
    const [first] = await podAndTwo({ network: "NODE", pid: "CONTAINER", ipc: "POD" });
    expect(first.net).toBe(hostNamespace("net"));
  });

  clause("POD: one of each for all containers of the sandbox, for its whole life", { needs: "pod network" }, async () => {
    const [first, second] = await podAndTwo({ network: "POD", pid: "CONTAINER", ipc: "POD" });
    expect(first.net).toBe(second.net);
    expect(first.uts).toBe(second.uts);
    expect(first.net).not.toBe(hostNamespace("net"));
    expect(first.uts).not.toBe(hostNamespace("uts"));
  });

  clause("POD: the network namespace has a loopback that is up", { needs: "pod network" }, async () => {
    const options = { network: "POD", pid: "CONTAINER", ipc: "POD" };
    const pod = await cri.pod({ hostname: "loop", ...of(options) });
    const { out } = await cri.says("ip -o link show lo; ping -c 1 -W 2 127.0.0.1 > /dev/null && echo answers", of(options), pod);
    expect(out).toMatch(/<LOOPBACK,UP.*\nanswers$/);
  });
});

describe("other namespaces", () => {
  clause("every container has a mount namespace of its own", async () => {
    const [first, second] = await podAndTwo({ network: "NODE", pid: "NODE", ipc: "NODE" });
    expect(new Set([first.mnt, second.mnt, hostNamespace("mnt")]).size).toBe(3);
  });

  clause("without userns_options the host's user namespace is used", async () => {
    const [first] = await podAndTwo({ network: "NODE", pid: "CONTAINER", ipc: "POD" });
    expect(first.user).toBe(hostNamespace("user"));
  });
});

describe("user namespaces", () => {
  const line = (length: number): Message[] => [{ host_id: 3_000_000, container_id: 0, length }];
  const options = (more: Message): Message => ({ network: "NODE", pid: "CONTAINER", ipc: "POD", userns_options: more });
  const mapped = options({ mode: "POD", uids: line(65_536), gids: line(65_536) });

  clause("POD: the mappings are those that were asked for", { since: "1.25", needs: "user namespaces" }, async () => {
    const pod = await cri.pod({ hostname: "userns", ...of({ ...mapped, network: podNetwork() }) });
    const { out } = await cri.says(
      "id -u; cat /proc/self/uid_map /proc/self/gid_map",
      of({ ...mapped, network: podNetwork() }),
      pod,
    );
    expect(out.split("\n").map((text) => text.trim().split(/\s+/).join(" "))).toEqual([
      "0",
      "0 3000000 65536",
      "0 3000000 65536",
    ]);
  });

  clause(
    "POD without mappings, NODE with them, CONTAINER and TARGET are errors",
    { since: "1.25", needs: "user namespaces" },
    async () => {
      const wrong = [
        { mode: "POD", uids: [], gids: [] },
        { mode: "POD", uids: line(0), gids: line(0) },
        { mode: "NODE", uids: line(65_536), gids: line(65_536) },
        { mode: "CONTAINER", uids: line(65_536), gids: line(65_536) },
        { mode: "TARGET", uids: line(65_536), gids: line(65_536) },
      ];
      for (const userns_options of wrong)
        await refused(cri.pod({ hostname: "userns", ...of({ ...mapped, network: podNetwork(), userns_options }) }), codes.any);
    },
  );

  clause("a container must ask for what its sandbox has", { since: "1.25", needs: "user namespaces" }, async () => {
    const pod = await cri.pod({ hostname: "userns", ...of({ ...mapped, network: podNetwork() }) });
    const other = options({ mode: "POD", uids: line(1000), gids: line(1000) });
    await refused(cri.create(pod, cri.containerConfig(forever, of({ ...other, network: podNetwork() }))), codes.any);
  });

  const podNetwork = (): string => (cri.endpoint.abilities.includes("pod network") ? "POD" : "NODE");
});

describe("cgroups", () => {
  clause("a container's cgroup is below linux.cgroup_parent and its name has the container's id", async () => {
    const pod = await cri.sharedPod();
    const id = await cri.run(pod, cri.containerConfig(forever));
    const directory = containerCgroup(pod.config.linux.cgroup_parent, id, "memory");
    expect(directory).toBeDefined();
    expect(readFileSync(`${directory}/cgroup.procs`, "utf8").trim().split("\n").length).toBeGreaterThanOrEqual(1);
  });

  clause("a removed container leaves no cgroup", async () => {
    const pod = await cri.sharedPod();
    const id = await cri.run(pod, cri.containerConfig(forever));
    await cri.remove(id);
    for (const controller of ["memory", "cpu", "pids"]) {
      expect(containerCgroup(pod.config.linux.cgroup_parent, id, controller)).toBeUndefined();
    }
  });

  clause("the cgroup namespace is private on cgroup v2, the host's on v1", async () => {
    const [first] = await podAndTwo({ network: "NODE", pid: "CONTAINER", ipc: "POD" });
    if (cgroupVersion === 2) expect(first.cgroup).not.toBe(hostNamespace("cgroup"));
    else expect(first.cgroup).toBe(hostNamespace("cgroup"));
  });
});
