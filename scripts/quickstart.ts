/** The part of scripts/quickstart that talks to the daemon: prints each step and how long it took. */
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { CriClient, type Message } from "../test/helpers/cri-client.ts";
import { buildBusyboxImage } from "../test/helpers/oci-image.ts";
import { pushImage, startRegistry } from "../test/helpers/registry.ts";

const keep = process.argv.includes("--keep");
const top = join(import.meta.dirname, "..");
const base = mkdtempSync("/tmp/caisson-quickstart-");
const socket = join(base, "caisson.sock");
const logFile = join(base, "caissond.log");

/** Runs one step and prints its name, its time and what came of it. */
async function step<T>(name: string, work: () => Promise<T>, describe: (result: T) => string = () => ""): Promise<T> {
  const began = performance.now();
  const result = await work();
  const took = (performance.now() - began).toFixed(1).padStart(6);
  console.log(`${took} ms  ${name.padEnd(22)} ${describe(result)}`.trimEnd());
  return result;
}

for (const directory of ["root", "state", "logs"]) mkdirSync(join(base, directory));
const log = openSync(logFile, "a");
const daemon = spawn(
  join(top, "scripts/caissond"),
  ["--root", join(base, "root"), "--state", join(base, "state"), "--listen", socket],
  { stdio: ["ignore", log, log], detached: keep },
);
closeSync(log);
const client = new CriClient(`unix://${socket}`);

async function ready(): Promise<void> {
  for (let tries = 0; ; tries++) {
    if (daemon.exitCode !== null)
      throw new Error(`caissond ended at its start; the end of its log:\n${readFileSync(logFile, "utf8").slice(-2000)}`);
    if (existsSync(socket)) {
      try {
        await client.runtime("Status", {}, 2000);
        return;
      } catch (error) {
        if (tries > 300) throw error;
      }
    }
    if (tries > 300) throw new Error(`caissond does not answer on ${socket}; its log is ${logFile}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function mainJob(): Promise<void> {
  await step("caissond ready", ready, () => `socket ${socket}`);
  await step(
    "Version",
    () => client.runtime("Version", {}),
    (v) => `${v.runtime_name} ${v.runtime_version}, CRI ${v.runtime_api_version}`,
  );

  const registry = await startRegistry();
  let image: string;
  try {
    const built = buildBusyboxImage(join(base, "image"));
    const reference = await step(
      "push to registry",
      () => pushImage(registry, "quickstart/busybox", "1", built),
      (r) => `${r} (Debian's busybox-static)`,
    );
    const pulled = await step(
      "PullImage",
      () => client.image("PullImage", { image: { image: reference } }),
      (r) => r.image_ref.slice(0, 19),
    );
    image = pulled.image_ref;
  } finally {
    await registry.stop();
  }

  const config = {
    metadata: { name: "quickstart", uid: randomUUID(), namespace: "default", attempt: 0 },
    hostname: "quickstart",
    log_directory: join(base, "logs"),
    linux: {
      cgroup_parent: "/caisson-quickstart",
      security_context: { namespace_options: { network: "NODE", pid: "CONTAINER", ipc: "POD" } },
    },
  };
  const { pod_sandbox_id } = await step(
    "RunPodSandbox",
    () => client.runtime("RunPodSandbox", { config }),
    (r) => `pod ${r.pod_sandbox_id.slice(0, 13)}`,
  );
  const container: Message = {
    metadata: { name: "hello", attempt: 0 },
    image: { image },
    command: ["/bin/sh", "-c", "echo hello from process $$ as user $(id -un); trap 'exit 0' TERM; while :; do sleep 0.05; done"],
    log_path: "hello.log",
    linux: {
      resources: { memory_limit_in_bytes: 64 << 20 },
      security_context: { namespace_options: { network: "NODE", pid: "CONTAINER" }, seccomp: { profile_type: "RuntimeDefault" } },
    },
  };
  const create = (): Promise<Message> =>
    client.runtime("CreateContainer", { pod_sandbox_id, config: container, sandbox_config: config });
  const { container_id } = await step("CreateContainer", create, (r) => `container ${r.container_id.slice(0, 13)}`);
  await step("StartContainer", () => client.runtime("StartContainer", { container_id }));
  const path = join(base, "logs", "hello.log");
  await step(
    "log",
    async () => {
      for (let tries = 0; tries < 250; tries++) {
        const text = existsSync(path) ? readFileSync(path, "utf8") : "";
        if (text !== "") return text;
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
      throw new Error(`nothing was logged to ${path}`);
    },
    (text) => text.trim().split(" ").slice(1).join(" "),
  );
  const exec = (): Promise<Message> => client.runtime("ExecSync", { container_id, cmd: ["/bin/uname", "-sr"], timeout: 10 });
  await step("ExecSync", exec, (r) => `exit ${r.exit_code}: ${r.stdout.toString().trim()}`);
  const stats = (): Promise<Message> => client.runtime("ContainerStats", { container_id });
  await step(
    "ContainerStats",
    stats,
    ({ stats: s }) => `${Math.round(Number(s.memory.working_set_bytes.value) / 1024)} KiB of memory`,
  );
  await step("StopContainer", () => client.runtime("StopContainer", { container_id, timeout: 10 }));
  const status = async (): Promise<Message> => (await client.runtime("ContainerStatus", { container_id })).status;
  const exited = await step("ContainerStatus", status, (s) => `${s.state}, exit ${s.exit_code}, ${s.reason}`);
  if (exited.exit_code !== 0 || exited.reason !== "Completed")
    throw new Error(`the container ended with ${exited.exit_code} (${exited.reason})`);
  await step("RemoveContainer", () => client.runtime("RemoveContainer", { container_id }));
  await step("StopPodSandbox", () => client.runtime("StopPodSandbox", { pod_sandbox_id }));
  await step("RemovePodSandbox", () => client.runtime("RemovePodSandbox", { pod_sandbox_id }));
  const { items } = await client.runtime("ListPodSandbox", {});
  if (items.length > 0) throw new Error(`${items.length} pods are left`);
}

/** So that a failure leaves no container behind either. */
async function removePods(): Promise<void> {
  const { items } = await client.runtime("ListPodSandbox", {}, 2000);
  for (const { id } of items) {
    await client.runtime("StopPodSandbox", { pod_sandbox_id: id });
    await client.runtime("RemovePodSandbox", { pod_sandbox_id: id });
  }
}

let failed = false;
try {
  await mainJob();
} catch (error) {
  failed = true;
  // Best effort: when the daemon does not answer, its log is what tells more.
  await removePods().catch(() => {});
  console.error(`\nFAILED: ${error instanceof Error ? error.message : error}`);
  console.error(`remedy: see the daemon's log ${logFile}; scripts/caisson --help lists what looks into it`);
}
client.close();
if (keep && !failed) {
  daemon.unref();
  console.log(`
caissond goes on as process ${daemon.pid}; its log is ${logFile}
  crictl --runtime-endpoint unix://${socket} info
  ${top}/scripts/caisson --socket ${socket} status
  end it with: kill ${daemon.pid}`);
} else {
  daemon.kill("SIGTERM");
  await new Promise((resolve) =>
    daemon.exitCode === null && daemon.signalCode === null ? daemon.once("exit", resolve) : resolve(undefined),
  );
  if (!failed) rmSync(base, { recursive: true, force: true });
}
if (!failed) console.log("\nquickstart: success");
process.exitCode = failed ? 1 : 0;
