/** ADD, DEL and CHECK through the whole list of plugins (CNI 1.1.0, section 3). */
import { codeOf, messageOf, RuntimeError } from "../lib/errors.ts";
import type { ProgramLock } from "../native/host-program.ts";
import { type Attachment, ifName, requestConfig } from "./attachment.ts";
import { atLeast, type JsonObject, type NetworkList } from "./network-list.ts";
import { type Command, runPlugin } from "./plugin.ts";

export interface Chain {
  readonly list: NetworkList;
  readonly attachment: Attachment;
  readonly binDirs: readonly string[];
  /** Inherited by the plugins: held as long as one of them lives. */
  readonly lock: ProgramLock | null;
}

async function run(
  command: Command,
  chain: Chain,
  index: number,
  prevResult: JsonObject | undefined,
  signal: AbortSignal,
  more: JsonObject = {},
): Promise<JsonObject | undefined> {
  const { list, attachment, binDirs, lock } = chain;
  const plugin = list.plugins[index];
  if (plugin === undefined) throw new RangeError(`network ${list.name} has no plugin ${index}`);
  return await runPlugin(
    {
      command,
      type: plugin.type,
      config: { ...requestConfig(list, plugin, attachment.capabilities, prevResult), ...more },
      containerId: attachment.containerId,
      netns: attachment.netns,
      ifName,
      args: attachment.args.map(([key, value]) => `${key}=${value}`).join(";"),
      binDirs,
      lock,
    },
    signal,
  );
}

/** In order, each with its predecessor's result; the last one's is returned. Stops at the first failure. */
export async function addChain(chain: Chain, signal: AbortSignal): Promise<JsonObject> {
  let result: JsonObject | undefined;
  for (const index of chain.list.plugins.keys()) {
    const next = await run("ADD", chain, index, atLeast(chain.list.cniVersion, "0.3.0") ? result : undefined, signal);
    if (next === undefined) {
      throw new RuntimeError("internal", `CNI plugin ${chain.list.plugins[index]?.type} printed no result of its ADD`);
    }
    // Plugins refuse a prevResult without a version.
    result = { cniVersion: chain.list.cniVersion, ...next };
  }
  if (result === undefined) throw new RuntimeError("internal", `network ${chain.list.name} has no plugins`);
  return result;
}

/**
 * In reverse order, each with the result of the whole ADD. One plugin's failure does not keep the others from cleaning up, and one that
 * hangs leaves them their own time: `deadline` is asked for each.
 */
export async function deleteChain(chain: Chain, result: JsonObject | undefined, deadline: () => AbortSignal): Promise<void> {
  const prevResult = atLeast(chain.list.cniVersion, "0.4.0") ? result : undefined;
  const errors: unknown[] = [];
  for (const index of [...chain.list.plugins.keys()].reverse()) {
    try {
      await run("DEL", chain, index, prevResult, deadline());
    } catch (error) {
      errors.push(error);
    }
  }
  throwAll(errors);
}

function throwAll(errors: readonly unknown[]): void {
  const [first] = errors;
  if (errors.length === 1) throw first;
  if (errors.length > 1) throw new RuntimeError(codeOf(first), errors.map(messageOf).join("; "), {}, first);
}

/** Stops at the first plugin that finds something wrong. Nothing is done where the specification has no CHECK. */
export async function checkChain(chain: Chain, result: JsonObject, signal: AbortSignal): Promise<void> {
  if (!atLeast(chain.list.cniVersion, "0.4.0") || chain.list.disableCheck) return;
  for (const index of chain.list.plugins.keys()) await run("CHECK", chain, index, result, signal);
}

/** What one network and one container have in common. */
export interface ValidAttachment {
  readonly containerID: string;
  readonly ifname: string;
}

export function hasCollection({ cniVersion, disableGc }: NetworkList): boolean {
  return atLeast(cniVersion, "1.1.0") && !disableGc;
}

/** Lets each plugin free what belongs to none of these. One plugin's failure does not keep the others from it. */
export async function collectChain(
  list: NetworkList,
  binDirs: readonly string[],
  valid: readonly ValidAttachment[],
  deadline: () => AbortSignal,
): Promise<void> {
  const more = { "cni.dev/valid-attachments": valid.map((attachment) => ({ ...attachment })) };
  const errors: unknown[] = [];
  for (const index of list.plugins.keys()) {
    try {
      await run("GC", { list, attachment: nobody, binDirs, lock: null }, index, undefined, deadline(), more);
    } catch (error) {
      errors.push(error);
    }
  }
  throwAll(errors);
}

const nobody: Attachment = { containerId: "", netns: "", args: [], capabilities: {} };

/** Asks each plugin of a 1.1 list whether it could serve an ADD now; throws the first answer that says no. */
export async function statusOfChain(list: NetworkList, binDirs: readonly string[], signal: AbortSignal): Promise<void> {
  if (!atLeast(list.cniVersion, "1.1.0")) return;
  for (const index of list.plugins.keys())
    await run("STATUS", { list, attachment: nobody, binDirs, lock: null }, index, undefined, signal);
}
