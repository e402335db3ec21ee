/**
 * Where the time of a pod's life goes, for one or several builds of this daemon in turn, so that a slow moment of the machine meets all
 * of them: each call's minimum, 25th percentile, median and 99th percentile, the processor time of the daemon and its children, and
 * how often its main thread was switched. The last two hold on a busy machine too.
 *   node test/bench/profile.ts [--rounds N] [--build NAME=CHECKOUT]... [--network NODE|POD] [--pull] [--steps]
 * A CPU profile: --cpu-prof DIR. A CHECKOUT needs dist/, build/, scripts/caissond, package.json, node_modules.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { bridgeConflist } from "../helpers/cri-node.ts";
import { Daemon } from "../helpers/daemon.ts";
import { startRegistry } from "../helpers/registry.ts";
import { type Contender, listLatency, type Network, percentile, podRound, pushBigImage, pushSmallImage } from "./pod-round.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "50" },
    build: { type: "string", multiple: true, default: [] },
    network: { type: "string", default: "NODE" },
    pull: { type: "boolean", default: false },
    steps: { type: "boolean", default: false },
    "cpu-prof": { type: "string" },
  },
});
const rounds = Number(values.rounds);
/** Until the code is compiled and the caches are filled. */
const warmUpRounds = 3;
/** USER_HZ. */
const tickMs = 10;

interface Usage {
  readonly daemonMs: number;
  readonly childrenMs: number;
  readonly switches: number;
}

class Subject implements AsyncDisposable, Contender {
  readonly name: string;
  readonly image: string;
  readonly daemon: Daemon;
  readonly samples = new Map<string, number[]>();
  before: Usage = { daemonMs: 0, childrenMs: 0, switches: 0 };

  private constructor(name: string, daemon: Daemon, image: string) {
    this.name = name;
    this.daemon = daemon;
    this.image = image;
  }

  static async start(name: string, checkout: string | undefined, image: string): Promise<Subject> {
    const profile = values["cpu-prof"];
    const env = {
      ...(values.steps ? { CAISSON_STEP_TIMES: stepsFile(name) } : {}),
      ...(profile === undefined ? {} : { NODE_OPTIONS: `--cpu-prof --cpu-prof-interval=100 --cpu-prof-dir=${profile}` }),
    };
    const daemon = await Daemon.start({ logLevel: "info", env, ...(checkout === undefined ? {} : { checkout }) });
    const { image_ref } = await daemon.client.image("PullImage", { image: { image } });
    writeFileSync(join(daemon.cniConf, "10-bench.conflist"), bridgeConflist("caissonb1", "10.211.10.0/24"));
    return new Subject(name, daemon, image_ref);
  }

  get client(): Daemon["client"] {
    return this.daemon.client;
  }

  get logs(): string {
    return join(this.daemon.base, "logs");
  }

  add(sample: Readonly<Record<string, number>>): void {
    for (const [key, ms] of Object.entries(sample)) this.samples.set(key, [...(this.samples.get(key) ?? []), ms]);
  }

  /** Children count once they have been reaped: the shims with all that they started. */
  usage(): Usage {
    const { pid } = this.daemon;
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ").map(Number) ?? [];
    const status = readFileSync(`/proc/${pid}/task/${pid}/status`, "utf8");
    const switches = [...status.matchAll(/voluntary_ctxt_switches:\s+(\d+)/g)].reduce((sum, match) => sum + Number(match[1]), 0);
    const [user = 0, system = 0, childUser = 0, childSystem = 0] = fields.slice(11, 15);
    return { daemonMs: (user + system) * tickMs, childrenMs: (childUser + childSystem) * tickMs, switches };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon[Symbol.asyncDispose]();
  }
}

const scratch = mkdtempSync(join(tmpdir(), "caisson-profile-"));
const stepsFile = (name: string): string => join(scratch, `steps-${name}`);

function row(title: string, cells: readonly string[]): void {
  console.log(title.padEnd(28) + cells.map((cell) => cell.padStart(36)).join(""));
}

function spread(numbers: readonly number[]): string {
  return [0, 25, 50, 99].map((p) => percentile(numbers, p).toFixed(2)).join(" / ");
}

function printSteps(subject: Subject): void {
  const byStep = Map.groupBy(
    readFileSync(stepsFile(subject.name), "utf8").trim().split("\n"),
    (line) => line.split(" ")[0] ?? "",
  );
  for (const [name, lines] of byStep) row(name, [spread(lines.map((line) => Number(line.split(" ")[1])))]);
}

const stack = new AsyncDisposableStack();
const registry = await startRegistry();
try {
  const image = await pushSmallImage(registry, scratch);
  const builds = values.build.length === 0 ? [["this", undefined] as const] : values.build.map((text) => text.split("="));
  const subjects: Subject[] = [];
  for (const [name = "", checkout] of builds) subjects.push(stack.use(await Subject.start(name, checkout, image)));
  for (let i = 0; i < warmUpRounds + rounds; i++) {
    for (const subject of subjects) {
      if (i === warmUpRounds) subject.before = subject.usage();
      const sample = await podRound(subject, values.network as Network);
      if (i >= warmUpRounds) subject.add({ ...sample });
    }
  }
  const used = subjects.map((subject) => ({ before: subject.before, after: subject.usage() }));
  if (values.pull) {
    const big = await pushBigImage(registry, scratch);
    for (const subject of subjects) {
      const { idle, busy } = await listLatency(subject.client, big);
      subject.samples.set("Status + List, idle", idle);
      subject.samples.set("Status + List, pulling", busy);
    }
  }
  row(
    "ms: min/p25/median/p99",
    subjects.map(({ name }) => name),
  );
  for (const key of subjects[0]?.samples.keys() ?? [])
    row(
      key,
      subjects.map(({ samples }) => spread(samples.get(key) ?? [])),
    );
  for (const key of ["daemonMs", "childrenMs", "switches"] as const) {
    row(
      `${key} per round`,
      used.map(({ before, after }) => ((after[key] - before[key]) / rounds).toFixed(1)),
    );
  }
  if (values.steps) for (const subject of subjects) printSteps(subject);
} finally {
  await stack.disposeAsync();
  await registry.stop();
  rmSync(scratch, { recursive: true, force: true });
}
