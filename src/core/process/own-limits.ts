/** What the daemon itself has, and so the most that it can give to a container; shims inherit it. */
import { readFile } from "node:fs/promises";
import { capabilitiesOf, capabilityBits, capabilityNames } from "./capabilities.ts";
import { type LimitCeiling, parseHardLimits } from "./resource-limits.ts";

export interface OwnLimits {
  readonly capabilities: bigint;
  readonly rlimits: LimitCeiling;
  /** Lowest oom_score_adj that can be given; -1000 where it is free. */
  readonly leastOomScoreAdj: number;
  /** Sentences for the log, Status and doctor. */
  readonly sentences: readonly string[];
}

export async function readOwnLimits(procDir = "/proc"): Promise<OwnLimits> {
  const [status, limits, score] = await Promise.all(
    ["status", "limits", "oom_score_adj"].map((name) => readFile(`${procDir}/self/${name}`, "utf8")),
  );
  return ownLimits(status ?? "", limits ?? "", score ?? "");
}

/** From the texts of /proc/self/{status,limits,oom_score_adj}. */
export function ownLimits(status: string, limits: string, score: string): OwnLimits {
  const capabilities = hexField(status, "CapBnd") & hexField(status, "CapPrm");
  const mayRaise = (capabilities & capabilityBits(["CAP_SYS_RESOURCE"])) !== 0n;
  const leastOomScoreAdj = mayRaise ? -1000 : Number.parseInt(score, 10) || 0;
  const known = capabilityNames.length;
  const missing = capabilitiesOf(~capabilities & ((1n << BigInt(known)) - 1n));
  const sentences: string[] = [];
  if (missing.length > 0) {
    sentences.push(`the daemon lacks ${missing.join(", ")}: containers that ask for them run without`);
  }
  if (!mayRaise) {
    sentences.push(
      "without CAP_SYS_RESOURCE hard resource limits cannot be raised: containers get at most the daemon's own",
      `without CAP_SYS_RESOURCE oom_score_adj cannot go below ${leastOomScoreAdj}: lower values become that`,
    );
  }
  return { capabilities, rlimits: { hard: parseHardLimits(limits), mayRaise }, leastOomScoreAdj, sentences };
}

function hexField(status: string, name: string): bigint {
  const found = new RegExp(`^${name}:\\s*([0-9a-f]+)$`, "m").exec(status);
  return found?.[1] === undefined ? 0n : BigInt(`0x${found[1]}`);
}
