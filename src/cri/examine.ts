/** What lies on the machine under names of ours and belongs to no record. Changes nothing. */
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { containerIdAt } from "../core/cgroup/systemd-names.ts";
import { errnoName, messageOf } from "../lib/errors.ts";
import type { CriApp } from "./app-types.ts";
import { isObjectId, podsDir, writableLayersDir } from "./paths.ts";

export interface Finding {
  readonly what: string;
  /** A sentence with the remedy. */
  readonly text: string;
}

export interface ExamineRequest {
  /** Let the plugins check the attachment of each pod, which runs each of them once per pod. */
  readonly checkNetwork: boolean;
}

export async function examine(app: CriApp, request: ExamineRequest, signal: AbortSignal): Promise<readonly Finding[]> {
  const isPod = (id: string): boolean => app.sandboxes.knows(id);
  const found = await Promise.all([
    files(app.config.netnsDir, /^caisson-([0-9a-f]{64})$/, isPod, "network namespace", (path) => `umount ${path} && rm ${path}`),
    files(podsDir(app.config), /^([0-9a-f]{64})$/, isPod, "pod directory", () => "restart caissond, which takes it down"),
    files(
      writableLayersDir(app.config),
      /^([0-9a-f]{64})$/,
      (id) => app.containers.knows(id),
      "writable layer",
      () => "restart caissond, which removes it",
    ),
    cgroups(app),
    network(app, isPod),
    request.checkNetwork ? brokenNetworks(app, signal) : [],
  ]);
  return found.flat();
}

async function files(
  directory: string,
  pattern: RegExp,
  isKnown: (id: string) => boolean,
  what: string,
  remedy: (path: string) => string,
): Promise<readonly Finding[]> {
  const names = await readdir(directory).catch((error: unknown) => {
    if (errnoName(error) === "ENOENT") return [];
    throw error;
  });
  return names.flatMap((name): Finding[] => {
    const id = pattern.exec(name)?.[1];
    const path = join(directory, name);
    // Looked at after the names were read: whose record has gone meanwhile has left no file.
    if (id === undefined || isKnown(id) || !existsSync(path)) return [];
    return [{ what, text: `${path} belongs to no record of this daemon; unless another one runs here: ${remedy(path)}` }];
  });
}

/** Below the pods that are known, and where pods without a parent of their own are. */
async function cgroups(app: CriApp): Promise<readonly Finding[]> {
  const parents = new Set(app.sandboxes.all().map(({ translation }) => translation.cgroupParent));
  const findings: Finding[] = [];
  for (const parent of parents) {
    for (const name of await app.runtime.cgroupsIn(parent)) {
      const id = containerIdAt(name);
      if (!isObjectId(id) || app.containers.knows(id) || !app.runtime.cgroupExists(`${parent}/${name}`)) continue;
      findings.push({ what: "cgroup", text: `${parent}/${name} belongs to no container; it goes with its pod` });
    }
  }
  for (const name of await app.runtime.cgroupsIn(ownPods)) {
    if (!isObjectId(name) || app.sandboxes.knows(name) || !app.runtime.cgroupExists(`${ownPods}/${name}`)) continue;
    findings.push({
      what: "cgroup",
      text: `${ownPods}/${name} belongs to no pod of this daemon; unless another one runs here: rmdir it in every hierarchy`,
    });
  }
  return findings;
}

const ownPods = "/caisson/pods";

async function network(app: CriApp, isPod: (id: string) => boolean): Promise<readonly Finding[]> {
  const objects = await app.network.unowned(isPod);
  return objects.map(({ path, text }) => ({ what: "network", text: `${path}: ${text}` }));
}

async function brokenNetworks(app: CriApp, signal: AbortSignal): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const { id, phase, config, translation } of app.sandboxes.all()) {
    if (phase !== "ready" || translation.network === null) continue;
    await app.network.check(translation.network, signal).catch((error: unknown) => {
      if (signal.aborted || app.sandboxes.get(id)?.phase !== "ready") return;
      const pod = `${config.metadata?.namespace}/${config.metadata?.name}`;
      findings.push({ what: "network", text: `pod ${pod} (${id}) is not attached as it was: ${messageOf(error)}` });
    });
  }
  return findings;
}
