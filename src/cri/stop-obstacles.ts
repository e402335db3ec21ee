/** What keeps a container or a pod from going, in words and in the ledger. */
import type { Holder } from "../core/runtime.ts";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import type { CriApp } from "./app-types.ts";
import { mayHaveProcesses } from "./container-state.ts";
import { containersOf } from "./queries.ts";
import type { ContainerRecord, SandboxRecord } from "./records.ts";
import { markStopping } from "./sandbox-notready.ts";
import { owesNetworkDetach } from "./sandbox-state.ts";
import type { LedgerItem, PodLedger } from "./stop-ledger.ts";

/** The error of a stop that waited in vain for one of these containers. */
export async function stillThere(app: CriApp, records: readonly ContainerRecord[], cause: unknown): Promise<RuntimeError> {
  const found = await Promise.all(
    records.map(async (record) => ({ record, holders: await app.runtime.holdersIn(record.cgroupsPath) })),
  );
  const busy = found.filter(({ holders }) => holders.length > 0);
  const sentences = (busy.length > 0 ? busy : found).map(({ record, holders }) => {
    const who = holders.length === 0 ? "its end has not been reported" : `there is still ${nameHolders(holders)}`;
    const patience = `${app.config.killPatienceMs / 1000} s after SIGKILL`;
    return `container ${record.config.metadata?.name ?? ""} (${record.id}) has not ended ${patience}: ${who}`;
  });
  return new RuntimeError("deadline_exceeded", sentences.join("; ") || messageOf(cause), {}, cause);
}

/**
 * A teardown of a pod with what follows from its end: the ledger says what is in the way, and so do the pod's reason and the error.
 */
export async function tellingWhatBlocks(app: CriApp, podId: string, teardown: () => Promise<void>): Promise<void> {
  try {
    await teardown();
    app.ledger.unblocked(podId);
  } catch (error) {
    const record = app.sandboxes.get(podId);
    if (record === undefined || app.stopping.aborted) throw error;
    app.ledger.blocked(podId, podTitle(record), await obstaclesOf(app, record, error));
    if (record.phase === "stopping" && record.reason !== "NetworkTeardownFailed") {
      await markStopping(app, podId, "TeardownBlocked", messageOf(error));
    }
    throw error;
  }
}

async function obstaclesOf(app: CriApp, record: SandboxRecord, error: unknown): Promise<readonly LedgerItem[]> {
  const items = await Promise.all(containersOf(app, record.id).map((container) => processesOf(app, container)));
  const found = items.filter((item) => item !== undefined);
  if (found.length > 0) return found;
  const network = record.reason === "NetworkTeardownFailed" && owesNetworkDetach(record.network);
  return [{ kind: network ? "network" : "pod", what: podTitle(record), why: messageOf(error), holders: [] }];
}

async function processesOf(app: CriApp, record: ContainerRecord): Promise<LedgerItem | undefined> {
  const holders = record.cgroupsPath === "" ? [] : await app.runtime.holdersIn(record.cgroupsPath);
  if (holders.length === 0 && !mayHaveProcesses(record.phase)) return undefined;
  const name = record.config.metadata?.name ?? record.id;
  return { kind: "processes", what: record.id, why: `processes of container ${name} do not end`, holders };
}

export function podTitle({ config }: SandboxRecord): string {
  return `${config.metadata?.namespace ?? ""}/${config.metadata?.name ?? ""}`;
}

/** One sentence for each thing that is not free yet. */
export function ledgerSentences(ledger: PodLedger): readonly string[] {
  const since = new Date(Number(ledger.sinceNs / 1_000_000n)).toISOString();
  return ledger.items.map(({ kind, what, why, holders }) => {
    const who = holders.length === 0 ? "" : ` (${nameHolders(holders)})`;
    const thing = kind === "mount" ? `mount ${what}: ` : "";
    const tries = kind === "mount" ? "" : `, attempts: ${ledger.attempts}`;
    return `pod ${ledger.pod} (${ledger.podId}): ${thing}${why}${who}; since ${since}${tries}`;
  });
}

/** A sentence's part: who they are, and why no signal helps. */
function nameHolders(holders: readonly Holder[]): string {
  return holders
    .map(({ pid, command, state, waitsIn }) => {
      const where = waitsIn === "" ? "" : ` in ${waitsIn}`;
      const asleep = state === "D" ? `, asleep in the kernel${where} where no signal reaches it` : "";
      return `process ${pid} (${command}${asleep})`;
    })
    .join(", ");
}
