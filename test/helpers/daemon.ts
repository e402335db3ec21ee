/** Runs the built daemon with directories of its own, as an operator would, and ends it gently or not. */
import { type ChildProcess, spawn } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { CriClient } from "./cri-client.ts";

export interface DaemonOptions {
  /** TOML appended to the test's own configuration. */
  readonly config?: string;
  /** More lines of its section [cni]. */
  readonly cni?: string;
  /** Searched for CNI plugins ahead of the distribution's. */
  readonly plugins?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Reuse the directories of an earlier daemon. */
  readonly base?: string;
  readonly logLevel?: string;
  /** Another checkout that is built; this one otherwise. */
  readonly checkout?: string;
}

const top = join(import.meta.dirname, "../..");
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export class Daemon implements AsyncDisposable {
  readonly base: string;
  readonly root: string;
  readonly state: string;
  readonly socket: string;
  readonly cniConf: string;
  readonly hostsDir: string;
  readonly logFile: string;
  readonly client: CriClient;
  readonly #faultFile: string;
  #child: ChildProcess | undefined;
  #options: DaemonOptions;

  private constructor(base: string, options: DaemonOptions) {
    this.base = base;
    this.root = join(base, "root");
    this.state = join(base, "state");
    this.socket = join(base, "caisson.sock");
    this.cniConf = join(base, "cni");
    this.hostsDir = join(base, "hosts.d");
    this.logFile = join(base, "caissond.log");
    this.#faultFile = join(base, "fault");
    this.client = new CriClient(`unix://${this.socket}`);
    this.#options = options;
  }

  /** Starts a daemon below a new temporary directory (or `base`) and waits until it is ready. */
  static async start(options: DaemonOptions = {}): Promise<Daemon> {
    const daemon = new Daemon(options.base ?? mkdtempSync("/tmp/caisson-test-"), options);
    for (const directory of [daemon.root, daemon.state, daemon.cniConf, daemon.hostsDir])
      mkdirSync(directory, { recursive: true });
    await daemon.launch();
    return daemon;
  }

  get pid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error("the daemon is not running");
    return pid;
  }

  /** Read by the daemon at each of its steps (src/lib/step.ts): arms a fault in it as it runs, or in the next one; "" for none. */
  arm(fault: string): void {
    writeFileSync(`${this.#faultFile}.new`, fault);
    renameSync(`${this.#faultFile}.new`, this.#faultFile);
  }

  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  log(): string {
    return readFileSync(this.logFile, "utf8");
  }

  /** Starts the process again after kill() or stop(), on the same directories. */
  async launch(env: Readonly<Record<string, string>> = {}, wait = true): Promise<void> {
    const config = join(this.base, "config.toml");
    const plugins = this.#options.plugins === undefined ? [] : [this.#options.plugins];
    writeFileSync(
      config,
      `[cni]\nconf_dirs = ["${this.cniConf}"]\nbin_dirs = ${JSON.stringify([...plugins, "/usr/lib/cni"])}\n` +
        `cache_dir = "${this.base}/cni-cache"\n${this.#options.cni ?? ""}\n` +
        `[registry]\nhosts_dir = "${this.hostsDir}"\n${this.#options.config ?? ""}${this.#withoutNri()}`,
    );
    const log = openSync(this.logFile, "a");
    const args = ["--root", this.root, "--state", this.state, "--listen", this.socket, "--config", config];
    this.#child = spawn(
      join(this.#options.checkout ?? top, "scripts/caissond"),
      [...args, "--log-level", this.#options.logLevel ?? "debug"],
      {
        stdio: ["ignore", log, log],
        env: { ...process.env, CAISSON_FAULT_FILE: this.#faultFile, ...this.#options.env, ...env },
      },
    );
    closeSync(log);
    if (wait) await this.ready();
  }

  /** The daemons of the tests must not all want the node's one socket; an older checkout may not know the section. */
  #withoutNri(): string {
    return this.#options.checkout !== undefined || this.#options.config?.includes("[nri]") ? "" : "\n[nri]\nenabled = false\n";
  }

  /** Resolves when Status answers; throws with the end of the log when the daemon ends instead. */
  async ready(patienceMs = 180_000): Promise<void> {
    const until = Date.now() + patienceMs;
    for (;;) {
      if (!this.running) throw new Error(`caissond ended at its start:\n${this.log().slice(-4000)}`);
      try {
        await this.client.runtime("Status", {}, 2000);
        return;
      } catch (error) {
        if (Date.now() > until) throw new Error(`caissond is not ready: ${error}\n${this.log().slice(-4000)}`);
        await sleep(20);
      }
    }
  }

  /** Resolves with the signal or exit code once the process is gone. */
  async exited(patienceMs = 30_000): Promise<string | number> {
    const child = this.#child;
    if (child === undefined) return 0;
    if (this.running) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve, reject) => {
        child.once("exit", () => resolve());
        timer = setTimeout(() => reject(new Error("caissond did not end")), patienceMs);
      });
      clearTimeout(timer);
    }
    return child.signalCode ?? child.exitCode ?? 0;
  }

  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    this.#child?.kill(signal);
    await this.exited();
  }

  /** SIGTERM and wait: containers go on. */
  async stop(): Promise<void> {
    await this.kill("SIGTERM");
  }

  /** What a pod or container had in the daemon's directories went with it. */
  #expectEmpty(): void {
    const kept = ["state/pods", "state/containers", "root/containers", "root/cni", "cni-cache"].flatMap((name) => {
      const directory = join(this.base, name);
      return existsSync(directory) ? readdirSync(directory).map((entry) => join(directory, entry)) : [];
    });
    if (kept.length > 0) throw new Error(`every pod is removed, but there still is ${kept.join(", ")}`);
  }

  /** Removes every pod over CRI, ends the daemon, deletes its directories. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.running) await this.launch();
    const { items } = await this.client.runtime("ListPodSandbox", {});
    for (const { id } of items) {
      await this.client.runtime("StopPodSandbox", { pod_sandbox_id: id });
      await this.client.runtime("RemovePodSandbox", { pod_sandbox_id: id });
    }
    await this.stop();
    this.client.close();
    this.#expectEmpty();
    rmSync(this.base, { recursive: true, force: true });
  }
}
