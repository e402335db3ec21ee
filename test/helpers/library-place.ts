/** A directory with a root made of busybox and room for the states of containers of the library, and what they must not leave. */
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { allowedDevices, type Config, Container, Process, type ProcessSpec } from "../../src/core/library/public.ts";
import { onV2 } from "./cgroup-files.ts";

const applets =
  "sh echo id ls cat sleep true false ip mount mkdir stat ps hostname env kill touch dd head tail grep tty stty test mknod rm ln readlink sysctl wc date";
const alone = process.env.CAISSON_SHARED_MACHINE === undefined;
const helpersCgroups = (): string[] => globSync("/sys/fs/cgroup/{,*/}caisson-library");
const hardened = ["noexec", "nosuid", "nodev"];

export class LibraryPlace implements AsyncDisposable {
  readonly top: string;
  readonly rootfs: string;
  readonly stateDir: string;
  /** All cgroups of this place lie below it. */
  readonly cgroup: string;
  readonly #ids: string[] = [];
  /** Somebody else's containers, or what a run that was killed has left: not ours to judge. */
  readonly #before = new Set(helpersCgroups());

  constructor() {
    this.top = mkdtempSync(join(tmpdir(), "caisson-library-"));
    this.rootfs = join(this.top, "rootfs");
    this.stateDir = join(this.top, "state");
    this.cgroup = `/caisson-libtest-${randomBytes(4).toString("hex")}`;
    makeRoot(this.rootfs);
  }

  newId(): string {
    const id = `c${randomBytes(4).toString("hex")}`;
    this.#ids.push(id);
    return id;
  }

  config(id: string, changes: Partial<Config> = {}): Config {
    return {
      rootfs: this.rootfs,
      namespaces: [{ type: "mnt" }, { type: "uts" }, { type: "ipc" }, { type: "pid" }, { type: "net" }],
      cgroups: { path: `${this.cgroup}/${id}`, resources: { devices: allowedDevices } },
      devices: allowedDevices,
      hostname: "library",
      mounts: [
        { source: "proc", destination: "/proc", device: "proc", flags: hardened },
        { source: "tmpfs", destination: "/dev", device: "tmpfs", flags: ["nosuid", "strictatime"], data: "mode=755" },
        {
          source: "devpts",
          destination: "/dev/pts",
          device: "devpts",
          flags: ["nosuid", "noexec"],
          data: "newinstance,ptmxmode=0666",
        },
        { source: "shm", destination: "/dev/shm", device: "tmpfs", flags: hardened, data: "mode=1777,size=65536k" },
        { source: "sysfs", destination: "/sys", device: "sysfs", flags: [...hardened, "ro"] },
      ],
      ...changes,
    };
  }

  async create(changes: Partial<Config> = {}, id = this.newId()): Promise<Container> {
    return await Container.create(this.stateDir, id, this.config(id, changes));
  }

  /** A container whose first process sleeps. */
  async sleeping(changes: Partial<Config> = {}, spec: Partial<ProcessSpec> = {}): Promise<Container> {
    const container = await this.create(changes);
    await container.run(shell("sleep 1000", spec));
    return container;
  }

  /** Everything that carries our names. */
  leftovers(): string[] {
    const lines = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
    return [
      ...lines.filter((line) => line.includes(this.top)),
      ...this.cgroups(),
      // Of all containers of the machine.
      ...(alone ? helpersCgroups().filter((path) => !this.#before.has(path)) : []),
      ...(existsSync(this.stateDir) ? globSync(`${this.stateDir}/*`) : []),
    ];
  }

  cgroups(): string[] {
    return globSync(`/sys/fs/cgroup{,/*}${this.cgroup}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const id of this.#ids) {
      if (!existsSync(join(this.stateDir, id, "state.json"))) continue;
      const container = await Container.load(this.stateDir, id);
      if ((await container.status()) === "paused") await container.resume();
      if ((await container.status()) !== "stopped") await container.signal("KILL");
      await until(async () => (await container.status()) === "stopped");
      await container.destroy();
    }
    rmSync(this.top, { recursive: true, force: true });
  }
}

export function shell(script: string, spec: Partial<ProcessSpec> = {}): Process {
  return new Process({ args: ["sh", "-c", script], env: ["PATH=/bin"], ...spec });
}

/** What a script writes, run as a further process. */
export async function output(container: Container, script: string, spec: Partial<ProcessSpec> = {}): Promise<string> {
  const process = shell(script, { stdout: "pipe", stderr: "pipe", ...spec });
  await container.exec(process);
  const [out, err] = await Promise.all([streamText(process.stdout), streamText(process.stderr)]);
  const { exitCode } = await process.wait();
  if (exitCode !== 0) throw new Error(`exit ${exitCode}: ${out}${err}`);
  return out.trim();
}

/** What the first process of a new container writes. */
export async function initOutput(container: Container, script: string, spec: Partial<ProcessSpec> = {}): Promise<string> {
  const process = shell(script, { stdout: "pipe", stderr: "pipe", ...spec });
  await container.run(process);
  const [out, err] = await Promise.all([streamText(process.stdout), streamText(process.stderr)]);
  await process.wait();
  return (out + err).trim();
}

async function streamText(stream: NodeJS.ReadableStream | undefined): Promise<string> {
  return stream === undefined ? "" : await text(stream);
}

/** Pure v2 is an emulated machine here: Python alone takes ten seconds to start there when this one is busy. */
const patient = onV2 ? 90_000 : 10_000;

export async function until(done: () => boolean | Promise<boolean>, patienceMs = patient): Promise<void> {
  for (const end = Date.now() + patienceMs; !(await done()); ) {
    if (Date.now() > end) throw new Error("it did not come to that");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function makeRoot(root: string): void {
  for (const name of ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "data", "home/user"])
    mkdirSync(join(root, name), { recursive: true });
  copyFileSync("/bin/busybox", join(root, "bin/busybox"));
  chmodSync(join(root, "bin/busybox"), 0o755);
  for (const name of applets.split(" ")) symlinkSync("busybox", join(root, "bin", name));
  writeFileSync(join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n");
  writeFileSync(join(root, "etc/group"), "root:x:0:\nuser:x:1001:\nextra:x:2000:user\n");
}
