/** What a kubelet does, in short forms, against the endpoint under test. Pods of a case are removed after it. */
import { randomBytes, randomUUID } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, expect, inject } from "vitest";
import { CriClient, failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { expectNoLeaks, takeInventory } from "../helpers/leak-check.ts";
import type { BuiltImage } from "../helpers/oci-image.ts";
import { pushImage } from "../helpers/registry.ts";
import { removeCgroups } from "./cgroup.ts";
import type { Endpoint } from "./endpoint.ts";
import { type LogRecord, readLog, textOf } from "./log-records.ts";

/** Codes that the specification's text allows for a kind of failure. */
export const codes = {
  invalid: [grpcStatus.INVALID_ARGUMENT, grpcStatus.UNKNOWN],
  missing: [grpcStatus.NOT_FOUND],
  missingImage: [grpcStatus.NOT_FOUND, grpcStatus.UNKNOWN],
  taken: [grpcStatus.ALREADY_EXISTS, grpcStatus.UNKNOWN],
  wrongState: [grpcStatus.FAILED_PRECONDITION, grpcStatus.UNKNOWN],
  /** The text names none for a registry that refuses; no client acts on any but NotFound here. */
  denied: [grpcStatus.UNAUTHENTICATED, grpcStatus.PERMISSION_DENIED, grpcStatus.UNKNOWN, grpcStatus.NOT_FOUND],
  /** Where the text says "error" and no more; not: the RPC is missing, time ran out, the daemon is not there. */
  any: [
    ...[grpcStatus.INVALID_ARGUMENT, grpcStatus.UNKNOWN, grpcStatus.NOT_FOUND, grpcStatus.FAILED_PRECONDITION],
    ...[grpcStatus.ALREADY_EXISTS, grpcStatus.INTERNAL, grpcStatus.OUT_OF_RANGE, grpcStatus.PERMISSION_DENIED],
  ],
} as const;

export const unknownId = "0".repeat(64);
/** Stays until it is told to go, and goes at once. */
export const forever = ["/bin/sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"];
export const maskedPaths = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"];
export const readonlyPaths = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
export const now = (): bigint => BigInt(Date.now()) * 1_000_000n;
export const unique = (what: string): string => `${what}-${randomBytes(4).toString("hex")}`;

export interface PodHandle {
  readonly id: string;
  readonly config: Message;
}

export interface Outcome {
  readonly out: string;
  readonly err: string;
  readonly code: number;
  readonly status: Message;
}

/** Call once per file, first of all: what the file's pods leave behind on the machine fails it. */
export function useCri(): Cri {
  const endpoint = inject("endpoint");
  const cri = new Cri(endpoint);
  const before = takeInventory();
  afterEach(async () => await cri.removePods());
  afterAll(async () => {
    await cri.end();
    removeCgroups(endpoint.cgroupParent);
    if (endpoint.own) await expectNoLeaks(before);
  });
  return cri;
}

export class Cri {
  readonly endpoint: Endpoint;
  readonly client: CriClient;
  readonly logs: string;
  #pods: string[] = [];
  readonly #lasting: string[] = [];
  #shared: Promise<PodHandle> | undefined;

  constructor(endpoint: Endpoint) {
    this.endpoint = endpoint;
    this.client = new CriClient(endpoint.address);
    this.logs = join(endpoint.scratch, "logs");
  }

  async runtime(method: string, request: Message = {}): Promise<Message> {
    return await this.client.runtime(method, request);
  }

  async image(method: string, request: Message = {}): Promise<Message> {
    return await this.client.image(method, request);
  }

  podConfig(more: Message = {}): Message {
    const { linux = {}, metadata = {}, ...rest } = more;
    const { security_context = {}, ...linuxRest } = linux;
    const name = unique("pod");
    return {
      metadata: { name, uid: randomUUID(), namespace: "conformance", attempt: 0, ...metadata },
      log_directory: join(this.logs, name),
      labels: { suite: "conformance", pod: name },
      annotations: { "example.test/pod": name },
      linux: {
        cgroup_parent: `${this.endpoint.cgroupParent}/${name}`,
        security_context: { namespace_options: { network: "NODE", pid: "CONTAINER", ipc: "POD" }, ...security_context },
        ...linuxRest,
      },
      ...rest,
    };
  }

  containerConfig(command: readonly string[], more: Message = {}): Message {
    const { linux = {}, metadata = {}, ...rest } = more;
    const { security_context = {}, ...linuxRest } = linux;
    const name = unique("ctr");
    return {
      metadata: { name, attempt: 0, ...metadata },
      image: { image: this.endpoint.imageId, user_specified_image: this.endpoint.image },
      command,
      log_path: `${name}/0.log`,
      labels: { suite: "conformance", container: name },
      annotations: { "example.test/container": name },
      linux: {
        security_context: {
          namespace_options: { network: "NODE", pid: "CONTAINER", ipc: "POD" },
          masked_paths: maskedPaths,
          readonly_paths: readonlyPaths,
          seccomp: { profile_type: "RuntimeDefault" },
          ...security_context,
        },
        ...linuxRest,
      },
      ...rest,
    };
  }

  /** RunPodSandbox; the pod is removed after the case. */
  async pod(more: Message = {}, handler = ""): Promise<PodHandle> {
    return await this.podOf(this.podConfig(more), handler);
  }

  async podOf(config: Message, handler = ""): Promise<PodHandle> {
    const { pod_sandbox_id: id } = await this.runtime("RunPodSandbox", { config, runtime_handler: handler });
    this.#pods.push(id);
    return { id, config };
  }

  /** A pod that stays until the file's last case. */
  async lastingPod(more: Message = {}): Promise<PodHandle> {
    const config = this.podConfig(more);
    const { pod_sandbox_id: id } = await this.runtime("RunPodSandbox", { config });
    this.#lasting.push(id);
    return { id, config };
  }

  /** One pod for all cases of a file that do not care. */
  async sharedPod(): Promise<PodHandle> {
    this.#shared ??= this.lastingPod();
    return await this.#shared;
  }

  async create(pod: PodHandle, config: Message): Promise<string> {
    const request = { pod_sandbox_id: pod.id, config, sandbox_config: pod.config };
    return (await this.runtime("CreateContainer", request)).container_id;
  }

  async start(id: string): Promise<void> {
    await this.runtime("StartContainer", { container_id: id });
  }

  async run(pod: PodHandle, config: Message): Promise<string> {
    const id = await this.create(pod, config);
    await this.start(id);
    return id;
  }

  async stop(id: string, timeout = 0): Promise<void> {
    await this.runtime("StopContainer", { container_id: id, timeout });
  }

  async remove(id: string): Promise<void> {
    await this.runtime("RemoveContainer", { container_id: id });
  }

  async status(id: string): Promise<Message> {
    return (await this.runtime("ContainerStatus", { container_id: id })).status;
  }

  async podStatus(id: string): Promise<Message> {
    return (await this.runtime("PodSandboxStatus", { pod_sandbox_id: id })).status;
  }

  async containers(filter?: Message): Promise<Message[]> {
    return (await this.runtime("ListContainers", filter === undefined ? {} : { filter })).containers;
  }

  async sandboxes(filter?: Message): Promise<Message[]> {
    return (await this.runtime("ListPodSandbox", filter === undefined ? {} : { filter })).items;
  }

  async exited(id: string, patienceMs = 20_000): Promise<Message> {
    return await this.until(
      async () => {
        const status = await this.status(id);
        return status.state === "CONTAINER_EXITED" ? status : undefined;
      },
      `container ${id} to exit`,
      patienceMs,
    );
  }

  /** Polls until the answer is defined and not false. */
  async until<T>(ask: () => Promise<T | undefined | false>, what: string, patienceMs = 10_000): Promise<T> {
    const deadline = Date.now() + patienceMs;
    for (;;) {
      const answer = await ask();
      if (answer !== undefined && answer !== false) return answer;
      if (Date.now() > deadline) throw new Error(`waited ${patienceMs} ms in vain for ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  async exec(id: string, script: string, timeout = 10): Promise<{ out: string; err: string; code: number }> {
    const reply = await this.execRaw(id, ["/bin/sh", "-c", script], timeout);
    return { out: reply.stdout.toString().trim(), err: reply.stderr.toString().trim(), code: reply.exit_code };
  }

  async execRaw(id: string, cmd: readonly string[], timeout = 10): Promise<Message> {
    return await this.runtime("ExecSync", { container_id: id, cmd, timeout });
  }

  /** Runs a container to its end in the given pod, or the file's shared one; what it wrote, trimmed. */
  async says(script: string, more: Message = {}, pod?: PodHandle): Promise<Outcome> {
    const id = await this.run(pod ?? (await this.sharedPod()), this.containerConfig(["/bin/sh", "-c", script], more));
    return await this.outcome(id);
  }

  async outcome(id: string): Promise<Outcome> {
    const status = await this.exited(id);
    const records = readLog(status.log_path);
    const [out, err] = [textOf(records, "stdout").trim(), textOf(records, "stderr").trim()];
    return { out, err, code: status.exit_code, status };
  }

  async log(id: string): Promise<LogRecord[]> {
    return readLog((await this.status(id)).log_path);
  }

  /** Waits until the container has written this much: a container's output reaches its log in its own time. */
  async logged(id: string, text: string): Promise<LogRecord[]> {
    const { log_path: path } = await this.status(id);
    return await this.until(async () => {
      if (!existsSync(path) || !readFileSync(path, "utf8").includes(text)) return undefined;
      return readLog(path);
    }, `${text} in ${path}`);
  }

  /** Pushes to the suite's registry; the reference. */
  async push(name: string, tag: string, image: BuiltImage): Promise<string> {
    return await pushImage(this.#registry(), name, tag, image);
  }

  #registry(): Parameters<typeof pushImage>[0] {
    const host = this.endpoint.registry;
    if (host === null) throw new Error("this case needs the suite's registry");
    return { host, pid: 0, tokenRequests: [], authorization: () => undefined, stop: async () => {} };
  }

  async pull(reference: string): Promise<string> {
    return (await this.image("PullImage", { image: { image: reference } })).image_ref;
  }

  /** Whether an unknown id is a success is a clause of its own; cleaning up does not depend on it. */
  async removePod(id: string): Promise<void> {
    for (const method of ["StopPodSandbox", "RemovePodSandbox"]) {
      await this.runtime(method, { pod_sandbox_id: id }).catch((error: { code: number }) => {
        if (error.code !== grpcStatus.NOT_FOUND) throw error;
      });
    }
  }

  async removePods(): Promise<void> {
    const pods = this.#pods;
    this.#pods = [];
    for (const id of pods) await this.removePod(id);
  }

  async end(): Promise<void> {
    await this.removePods();
    for (const id of this.#lasting) await this.removePod(id);
    this.client.close();
  }
}

/** The call fails with one of the codes, and says something. */
export async function refused(call: Promise<unknown>, allowed: readonly number[]): Promise<string> {
  const { code, details } = await failure(call);
  expect(
    allowed.map((one) => grpcStatus[one]),
    details,
  ).toContain(grpcStatus[code]);
  expect(details).not.toBe("");
  return details;
}
