/** The life of a container: CreateContainer, StartContainer, StopContainer, RemoveContainer, ContainerStatus. */
import { existsSync } from "node:fs";
import { describe, expect } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { clause } from "./clause.ts";
import { codes, forever, now, refused, unknownId, useCri } from "./cri.ts";
import { sleeping, uniqueSeconds } from "./host-processes.ts";

const cri = useCri();
const sh = (script: string): string[] => ["/bin/sh", "-c", script];
const running = async (command: readonly string[] = forever, more: Message = {}): Promise<string> => {
  const id = await cri.run(await cri.sharedPod(), cri.containerConfig(command, more));
  if (command === forever) await cri.logged(id, "ready");
  return id;
};
const named = async (config: Message): Promise<Message[]> => await cri.containers({ label_selector: config.labels });

describe("CreateContainer", () => {
  clause("the container is CREATED: no start, no finish, no exit code, no reason, and nothing runs", async () => {
    const id = await cri.create(await cri.sharedPod(), cri.containerConfig(sh("echo ran")));
    expect(id).not.toBe("");
    const status = await cri.status(id);
    expect(status).toMatchObject({ state: "CONTAINER_CREATED", started_at: "0", finished_at: "0", exit_code: 0, reason: "" });
    await cri.start(id);
    expect((await cri.outcome(id)).out).toBe("ran");
  });

  clause("a sandbox that does not exist is an error", async () => {
    const pod = await cri.sharedPod();
    await refused(cri.create({ ...pod, id: unknownId }, cri.containerConfig(forever)), [...codes.missing, ...codes.invalid]);
  });

  clause("config.metadata and config.image are required", async () => {
    const pod = await cri.sharedPod();
    const config = cri.containerConfig(forever);
    await refused(cri.create(pod, { ...config, metadata: undefined }), codes.invalid);
    await refused(cri.create(pod, { ...config, image: undefined }), codes.any);
    await refused(cri.create(pod, { ...config, image: { image: "" } }), codes.any);
    expect(await named(config)).toEqual([]);
  });

  // Not sent to others: containerd 1.6 dies of it.
  clause("a request without sandbox_config or without config is refused", { ours: true }, async () => {
    const pod = await cri.sharedPod();
    const config = cri.containerConfig(forever);
    await refused(cri.create({ ...pod, config: undefined }, config), codes.invalid);
    await refused(cri.runtime("CreateContainer", { pod_sandbox_id: pod.id }), codes.invalid);
    expect(await named(config)).toEqual([]);
  });

  // containerd 1.6 makes it.
  clause("a container without a name is refused: its status would not be accepted", async () => {
    const config = cri.containerConfig(forever);
    await refused(cri.create(await cri.sharedPod(), { ...config, metadata: { name: "", attempt: 0 } }), codes.invalid);
  });

  clause("an image that is not present is an error; nothing is pulled", async () => {
    const config = cri.containerConfig(forever, { image: { image: `sha256:${"0".repeat(64)}` } });
    await refused(cri.create(await cri.sharedPod(), config), codes.missingImage);
    expect(await named(config)).toEqual([]);
  });

  clause("an image that the registry has but the node has not is not pulled", { madeImages: true }, async () => {
    const reference = `${cri.endpoint.registry}/conformance/busybox:1`;
    const image = `${cri.endpoint.registry}/conformance/elsewhere:1`;
    expect((await cri.image("ImageStatus", { image: { image: reference } })).image).not.toBeNull();
    await refused(cri.create(await cri.sharedPod(), cri.containerConfig(forever, { image: { image } })), codes.missingImage);
  });

  clause("the same name and attempt twice never makes a second container", async () => {
    const pod = await cri.sharedPod();
    const config = cri.containerConfig(forever);
    const id = await cri.create(pod, config);
    expect(await cri.create(pod, config).catch(() => id)).toBe(id);
    expect(await named(config)).toHaveLength(1);
  });

  clause("the same name and attempt with another config is refused", async () => {
    const pod = await cri.sharedPod();
    const config = cri.containerConfig(forever);
    await cri.create(pod, config);
    await refused(cri.create(pod, { ...config, command: ["/bin/true"] }), codes.taken);
    expect(await named(config)).toHaveLength(1);
  });

  clause("names are reserved atomically: of parallel calls for one container at most one makes it", async () => {
    const pod = await cri.sharedPod();
    const config = cri.containerConfig(forever);
    const results = await Promise.allSettled([1, 2, 3, 4].map(() => cri.create(pod, config)));
    const ids = new Set(results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : [])));
    expect(ids.size).toBe(1);
    expect(await named(config)).toHaveLength(1);
  });

  clause("a caller that gives up may ask again with the same name, and there is one container in the end", async () => {
    const pod = await cri.sharedPod();
    for (const patienceMs of [1, 5, 15]) {
      const config = cri.containerConfig(["/bin/true"]);
      const request = { pod_sandbox_id: pod.id, config, sandbox_config: pod.config };
      await cri.client.runtime("CreateContainer", request, 60_000, AbortSignal.timeout(patienceMs)).catch(() => undefined);
      // Both are in use: the name is free again, or the call answers with the finished one; failing that, it is found in the list.
      const id = await cri.until(
        async () => await cri.create(pod, config).catch(async () => (await named(config))[0]?.id),
        "the container",
      );
      expect((await named(config)).map((item) => item.id)).toEqual([id]);
      await cri.start(id);
      await cri.exited(id);
    }
  });

  clause("a new attempt is a new container, beside the one that has exited", async () => {
    const pod = await cri.sharedPod();
    const config = cri.containerConfig(["/bin/true"]);
    const first = await cri.run(pod, config);
    await cri.exited(first);
    const second = await cri.run(pod, { ...config, metadata: { ...config.metadata, attempt: 1 }, log_path: "next/1.log" });
    await cri.exited(second);
    expect((await named(config)).map((item) => item.metadata.attempt).sort()).toEqual([0, 1]);
  });

  clause("containers of one pod are created in parallel", async () => {
    const pod = await cri.pod();
    const created = await Promise.all([1, 2, 3, 4, 5, 6].map(() => cri.create(pod, cri.containerConfig(forever))));
    expect(new Set(created).size).toBe(6);
    await Promise.all(created.map((id) => cri.start(id)));
    const states = (await cri.containers({ pod_sandbox_id: pod.id })).map((item) => item.state);
    expect(new Set(states)).toEqual(new Set(["CONTAINER_RUNNING"]));
  });
});

describe("StartContainer", () => {
  clause("the container is RUNNING on return: started after it was created, not finished", async () => {
    const before = now();
    const id = await running();
    const status = await cri.status(id);
    expect(status).toMatchObject({ state: "CONTAINER_RUNNING", finished_at: "0", exit_code: 0 });
    const [created, started] = [BigInt(status.created_at), BigInt(status.started_at)];
    expect(created >= before - 1_000_000_000n && started >= created && started <= now() + 1_000_000_000n).toBe(true);
  });

  clause("it is not idempotent: a container that runs or has exited cannot be started", async () => {
    const id = await running();
    await refused(cri.start(id), codes.wrongState);
    await cri.stop(id);
    await refused(cri.start(id), codes.wrongState);
    expect((await cri.status(id)).state).toBe("CONTAINER_EXITED");
  });

  clause("a command that cannot be run is an error, and the container is EXITED or gone", async () => {
    const id = await cri.create(await cri.sharedPod(), cri.containerConfig(["/no/such/program"]));
    const details = await refused(cri.start(id), codes.any);
    expect(details).toContain("/no/such/program");
    const [item] = await cri.containers({ id });
    if (item === undefined) return;
    expect(await cri.status(id)).toMatchObject({ state: "CONTAINER_EXITED", started_at: "0" });
    const { finished_at, exit_code, reason } = await cri.status(id);
    expect(BigInt(finished_at) > 0n && exit_code !== 0 && reason !== "").toBe(true);
  });

  clause("a start that failed is EXITED with 128 and StartError, the message saying why", { ours: true }, async () => {
    const id = await cri.create(await cri.sharedPod(), cri.containerConfig(["/etc/passwd"]));
    await refused(cri.start(id), codes.any);
    const status = await cri.status(id);
    expect(status).toMatchObject({ state: "CONTAINER_EXITED", exit_code: 128, reason: "StartError" });
    expect(status.message).toContain("/etc/passwd");
  });

  clause("it returns when the process runs; its later exit is no error", async () => {
    const id = await running(["/bin/false"]);
    expect(await cri.exited(id)).toMatchObject({ exit_code: 1 });
  });
});

describe("the end of a container", () => {
  clause("exit code 0 is Completed, with times in order", async () => {
    const { status } = await cri.says("sleep 0.1");
    expect(status).toMatchObject({ state: "CONTAINER_EXITED", exit_code: 0, reason: "Completed" });
    const times = [status.created_at, status.started_at, status.finished_at].map(BigInt);
    expect(times).toEqual(times.toSorted((a, b) => (a < b ? -1 : 1)));
    expect(times.every((time) => time > 0n)).toBe(true);
  });

  clause("another exit code is reported with reason Error", async () => {
    expect((await cri.says("exit 42")).status).toMatchObject({ exit_code: 42, reason: "Error" });
  });

  clause("death by a signal is 128 plus the signal", async () => {
    // Process 1 of a namespace cannot be killed from inside; in the pod's shared one the container is not process 1.
    const namespace_options = { network: "NODE", pid: "POD", ipc: "POD" };
    const pod = await cri.pod({ linux: { security_context: { namespace_options } } });
    const more = { linux: { security_context: { namespace_options } } };
    expect((await cri.says("kill -SEGV $$; sleep 5", more, pod)).status).toMatchObject({ exit_code: 139, reason: "Error" });
  });

  clause("a kill for want of memory is 137 and OOMKilled", async () => {
    const more = { linux: { resources: { memory_limit_in_bytes: 16 << 20 } } };
    const { status } = await cri.says("exec tail /dev/zero", more);
    expect(status).toMatchObject({ exit_code: 137, reason: "OOMKilled" });
  });

  clause("an exit is seen without any call that waits for it", async () => {
    const id = await running(sh("sleep 0.2; exit 3"));
    expect(await cri.exited(id, 5000)).toMatchObject({ exit_code: 3 });
  });
});

describe("StopContainer", () => {
  clause("the stop signal is sent, and the call returns after the process is gone", async () => {
    const id = await running();
    await cri.stop(id, 10);
    expect(await cri.status(id)).toMatchObject({ state: "CONTAINER_EXITED", exit_code: 7 });
  });

  clause("SIGKILL follows when the timeout has passed, not before", async () => {
    const id = await running(sh("trap '' TERM; echo ready; while :; do sleep 0.05; done"));
    await cri.logged(id, "ready");
    const began = Date.now();
    await cri.stop(id, 1);
    expect(Date.now() - began).toBeGreaterThanOrEqual(1000);
    expect(await cri.status(id)).toMatchObject({ state: "CONTAINER_EXITED", exit_code: 137 });
  });

  clause("a timeout of 0 kills at once", async () => {
    const id = await running();
    await cri.stop(id, 0);
    expect(await cri.status(id)).toMatchObject({ state: "CONTAINER_EXITED", exit_code: 137 });
  });

  clause("a call with timeout 0 kills at once even while another one waits", async () => {
    const id = await running(sh("trap '' TERM; echo ready; while :; do sleep 0.05; done"));
    await cri.logged(id, "ready");
    const began = Date.now();
    const patient = cri.stop(id, 60);
    await new Promise((resolve) => setTimeout(resolve, 100));
    await cri.stop(id, 0);
    await patient;
    expect(Date.now() - began).toBeLessThan(20_000);
    expect(await cri.status(id)).toMatchObject({ state: "CONTAINER_EXITED", exit_code: 137 });
  });

  // containerd 1.6 answers NotFound, which the kubelet takes for done.
  clause("an unknown id succeeds", async () => {
    await cri.stop(unknownId);
  });

  clause("a caller whose time is up may ask again", async () => {
    const id = await running(sh("trap '' TERM; echo ready; while :; do sleep 0.05; done"));
    await cri.logged(id, "ready");
    await refused(cri.client.runtime("StopContainer", { container_id: id, timeout: 30 }, 300), [4]);
    expect((await cri.status(id)).state).toBe("CONTAINER_RUNNING");
    await cri.stop(id, 0);
    expect(await cri.status(id)).toMatchObject({ state: "CONTAINER_EXITED", exit_code: 137 });
  });

  clause("it is idempotent: a container that does not run succeeds", async () => {
    const id = await running();
    await cri.stop(id);
    const { finished_at } = await cri.status(id);
    await cri.stop(id, 5);
    expect((await cri.status(id)).finished_at).toBe(finished_at);
  });

  clause("a container that was never started does not run after it", async () => {
    const id = await cri.create(await cri.sharedPod(), cri.containerConfig(forever));
    await cri.stop(id, 1);
    expect((await cri.status(id)).state).not.toBe("CONTAINER_RUNNING");
  });

  clause("the image's stop signal is used", { madeImages: true }, async () => {
    const id = await running(sh("trap 'exit 9' USR1; trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"), {
      image: { image: await cri.pull(`${cri.endpoint.registry}/conformance/stop-usr1:1`) },
    });
    await cri.logged(id, "ready");
    await cri.stop(id, 10);
    expect(await cri.status(id)).toMatchObject({ exit_code: 9 });
  });

  clause("config.stop_signal comes before the image's, and the effective one is reported", { since: "1.33" }, async () => {
    const id = await running(sh("trap 'exit 9' USR2; trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"), {
      stop_signal: "SIGNAL_SIGUSR2",
    });
    await cri.logged(id, "ready");
    expect(await cri.status(id)).toMatchObject({ stop_signal: "SIGNAL_SIGUSR2" });
    await cri.stop(id, 10);
    expect(await cri.status(id)).toMatchObject({ exit_code: 9 });
  });

  clause("all processes of the container are gone with its first", async () => {
    const namespace_options = { network: "NODE", pid: "POD", ipc: "POD" };
    const pod = await cri.pod({ linux: { security_context: { namespace_options } } });
    const more = { linux: { security_context: { namespace_options } } };
    const seconds = uniqueSeconds();
    const id = await cri.run(pod, cri.containerConfig(sh(`sleep ${seconds} & sleep ${seconds} & wait`), more));
    await cri.until(async () => sleeping(seconds) === 2, "both children");
    await cri.stop(id);
    await cri.until(async () => sleeping(seconds) === 0, "the children's end", 5000);
  });
});

describe("RemoveContainer", () => {
  clause("the container is gone: not listed, its status is NotFound; its log stays", async () => {
    const id = await running(sh("echo kept"));
    const { log_path } = await cri.exited(id);
    await cri.remove(id);
    expect(await cri.containers({ id })).toEqual([]);
    await refused(cri.status(id), codes.missing);
    expect(existsSync(log_path)).toBe(true);
  });

  clause("a running container is killed first", async () => {
    const id = await running();
    await cri.remove(id);
    await refused(cri.status(id), codes.missing);
  });

  clause("a container that was never started is removed", async () => {
    const id = await cri.create(await cri.sharedPod(), cri.containerConfig(forever));
    await cri.remove(id);
    await refused(cri.status(id), codes.missing);
  });

  clause("it is idempotent: an unknown id and a removed container succeed", async () => {
    await cri.remove(unknownId);
    const id = await running(["/bin/true"]);
    await cri.exited(id);
    await cri.remove(id);
    await cri.remove(id);
  });

  clause("the name is free again", async () => {
    const pod = await cri.sharedPod();
    const config = cri.containerConfig(["/bin/true"]);
    const first = await cri.create(pod, config);
    await cri.remove(first);
    expect(await cri.create(pod, config)).not.toBe(first);
  });
});
