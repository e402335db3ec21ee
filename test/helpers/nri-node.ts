/** A node with NRI plugins of the test beside real pods. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { failure, type Message } from "./cri-client.ts";
import { CriNode } from "./cri-node.ts";
import { type Handlers, NriPlugin } from "./nri-plugin.ts";

/** Every event but the validation. */
export const plainEvents = 0x1fff;

export class NriNode implements AsyncDisposable {
  readonly node: CriNode;
  /** A scratch directory, with "plugins" and "conf.d" in it, and "cni" for network plugins. */
  readonly area: string;
  readonly socket: string;
  #plugins: NriPlugin[] = [];
  #count = 0;

  private constructor(node: CriNode, area: string) {
    this.node = node;
    this.area = area;
    this.socket = socketIn(area);
  }

  /** `prepare` may install plugins in `area`; `settings` are lines of [nri]. */
  static async start(settings: readonly string[], prepare: (area: string) => void = () => {}): Promise<NriNode> {
    const area = mkdtempSync("/tmp/caisson-nri-");
    for (const directory of ["plugins", "conf.d", "cni"]) mkdirSync(join(area, directory));
    prepare(area);
    const paths = [`socket = "${socketIn(area)}"`, `plugin_dir = "${area}/plugins"`, `config_dir = "${area}/conf.d"`];
    const config = ["[nri]", ...paths, ...settings, ""].join("\n");
    const node = await CriNode.start({ config, plugins: join(area, "cni") });
    return new NriNode(node, area);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.closePlugins();
    await this.node[Symbol.asyncDispose]();
    rmSync(this.area, { recursive: true });
  }

  /** Connected, synchronized, and known to the runtime as such. */
  async join(name: string, handlers: Handlers = {}, index = "10", events = plainEvents): Promise<NriPlugin> {
    const connected = `"${index}-${name}","msg":"an NRI plugin is connected"`;
    const times = (): number => this.node.daemon.log().split(connected).length;
    const before = times();
    const plugin = await NriPlugin.connect(this.socket, { name, index, handlers, events });
    this.#plugins.push(plugin);
    await until(() => times() > before);
    return plugin;
  }

  async closePlugins(): Promise<void> {
    for (const plugin of this.#plugins.splice(0)) {
      plugin.close();
      await plugin.closed;
    }
  }

  /** A pod of its own, removed in the end. */
  async inPod<T>(work: (podId: string, pod: Message) => Promise<T>, more: Message = {}): Promise<T> {
    const pod = this.node.podConfig(`nri${this.#count++}`, more);
    const podId = await this.node.runPod(pod);
    try {
      return await work(podId, pod);
    } finally {
      await this.node.removePod(podId);
    }
  }

  sleeper(more: Message = {}): Message {
    return this.node.containerConfig(`c${this.#count++}`, ["/bin/sleep", "1000"], more);
  }

  async create(podId: string, pod: Message, container: Message): Promise<Message> {
    return await this.node.client.runtime("CreateContainer", { pod_sandbox_id: podId, config: container, sandbox_config: pod });
  }

  /** "CODE: DETAILS" of a CreateContainer that fails. */
  async refused(podId: string, pod: Message, container: Message = this.sleeper()): Promise<string> {
    const { code, details } = await failure(this.create(podId, pod, container));
    return `${code}: ${details}`;
  }

  async shell(id: string, script: string): Promise<string> {
    const { stdout, stderr } = await this.node.exec(id, ["/bin/sh", "-c", script]);
    return `${stdout}${stderr}`.trim();
  }

  /** Of its bundle, as verbose status shows it. */
  async spec(id: string): Promise<Message> {
    const { info } = await this.node.client.runtime("ContainerStatus", { container_id: id, verbose: true });
    return JSON.parse(info.info).runtimeSpec;
  }

  async pidOf(id: string): Promise<number> {
    const { info } = await this.node.client.runtime("ContainerStatus", { container_id: id, verbose: true });
    return JSON.parse(info.info).pid;
  }
}

const socketIn = (area: string): string => join(area, "run/nri.sock");

export async function until(condition: () => boolean, patienceMs = 20_000): Promise<void> {
  for (const end = Date.now() + patienceMs; !condition(); await new Promise((resolve) => setTimeout(resolve, 5))) {
    if (Date.now() > end) throw new Error(`it never happened: ${condition}`);
  }
}
