/** The record that a shim leaves of an exit until the daemon has acknowledged it: lines of "key number". */

import { readFile } from "node:fs/promises";
import { join } from "node:path/posix";
import { errnoName, RuntimeError } from "../lib/errors.ts";
import { exitOf } from "./container-exit.ts";
import type { ContainerExit } from "./runtime.ts";

/** undefined: the container had not exited, or the shim could not write it. `data_loss` when it cannot be read as one. */
export async function readExitRecord(runDir: string, containerId: string): Promise<ContainerExit | undefined> {
  const path = join(runDir, "exits", containerId);
  try {
    return parseExitRecord(await readFile(path, "utf8"), containerId);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return undefined;
    throw error;
  }
}

export function parseExitRecord(text: string, containerId: string): ContainerExit {
  const values = new Map<string, bigint>();
  for (const line of text.split("\n")) {
    const [, key, value] = /^([a-zA-Z]+) ([0-9]+)$/.exec(line) ?? [];
    if (key !== undefined && value !== undefined) values.set(key, BigInt(value));
  }
  const need = (key: string): bigint => {
    const value = values.get(key);
    if (value !== undefined) return value;
    throw new RuntimeError("data_loss", `the exit record of container ${containerId} lacks ${key}`, { id: containerId });
  };
  return exitOf({
    id: containerId,
    status: Number(need("status")),
    atNs: need("atNs"),
    startedAtNs: need("startedAtNs"),
    oomKilled: Number(need("oomKilled")),
    logDroppedBytes: need("logDroppedBytes"),
  });
}
