/** What start() would do for a first process on this machine, for people: nothing is started or made. */
import { mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, normalize } from "node:path/posix";
import { IdmapNamespaces } from "../idmap-namespaces.ts";
import type { Plan } from "../plan.ts";
import { checkConfig } from "./check-config.ts";
import type { Config } from "./config.ts";
import { cgroupOf } from "./container-cgroup.ts";
import { planInit } from "./init-plan.ts";
import { firstSlot, gatherInit, hasNullDevice } from "./init-start.ts";
import { findMachine } from "./machine.ts";
import { machineFacts } from "./machine-facts.ts";
import type { ProcessSpec } from "./process-spec.ts";
import { JoinedNamespaces, shapeOf } from "./shape.ts";
import { PreparedStdio } from "./stdio.ts";
import { translateProcess } from "./translate.ts";

export interface ExplainedInit {
  /** Namespaces that the process is born with. */
  readonly cloneKinds: number;
  readonly plan: Plan;
}

/**
 * The root need not exist; the user must be given by number.
 * @throws RuntimeError as create() and start() do for what makes no sense.
 */
export async function explainInit(stateDir: string, id: string, config: Config, spec: ProcessSpec): Promise<ExplainedInit> {
  const machine = await findMachine();
  const { realDirectory } = machineFacts(machine.cgroups.hierarchies.version);
  checkConfig(config, machine, { realDirectory: (path) => realDirectory(path) ?? normalize(path) });
  const shape = shapeOf(config);
  const { user } = spec;
  const ids = typeof user === "object" ? user : { uid: 0, gid: 0 };
  const described = translateProcess(config, spec, { ...ids, additionalGids: ids.additionalGids ?? [] });
  const directory = mkdtempSync(join(tmpdir(), "caisson-plan-"));
  try {
    using joined = JoinedNamespaces.open(config, shape);
    using stdio = new PreparedStdio(spec, firstSlot, hasNullDevice(config));
    const mapped = shape.user === "shared" ? null : { uid: config.uidMappings ?? [], gid: config.gidMappings ?? [] };
    // In place of the user namespace that the helper would make: any descriptor takes up its slot.
    const helper = { run: async () => ({ exitCode: 0, fds: [openSync("/dev/null", "r")] }) };
    using idmaps = new IdmapNamespaces({ user: mapped }, helper, AbortSignal.timeout(60_000));
    const input = {
      machine,
      directory,
      id,
      shimId: "",
      config,
      cgroup: cgroupOf(machine, id, config),
      madeParents: [],
      spec,
      describe: async () => ({ oomScoreAdj: machine.ownOomScoreAdj, ...described }),
      signal: AbortSignal.timeout(60_000),
    };
    const gathered = await gatherInit(input, { shape, joined, stdio, root: { fd: 0 }, process: await input.describe(), idmaps });
    return planInit({ ...gathered.input, attachPath: join(stateDir, id, "rootfs") });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
