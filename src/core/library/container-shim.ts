/** The helper of one container: started with its first process, found again by any later process, ended with the container. */
import { join } from "node:path/posix";
import { setTimeout as sleep } from "node:timers/promises";
import { codeOf } from "../../lib/errors.ts";
import { removeStateTree } from "../../lib/state-files.ts";
import type { CoreLog } from "../pod-tools.ts";
import { connectShim } from "../shim/connect.ts";
import { ProcessHandle } from "../shim/process-handle.ts";
import { startShim } from "../shim/start.ts";
import { readShimIdentity } from "../shim-identity.ts";
import { type Connect, type LinkOptions, ShimLink, type StartShim } from "../shim-link.ts";
import type { Machine } from "./machine.ts";

/** The container's id within its helper, which names a file by it and shows it in messages; nobody else is there to be confused with. */
export function helperIdOf(id: string): string {
  return id.replaceAll("+", "_").replace(/^\./, "_").slice(0, longestHelperId);
}

const longestHelperId = 128;

const silent: CoreLog = { debug: () => {}, info: () => {}, warn: () => {} };
const sigkill = 9;
/** Cgroup of the helpers of the library's containers: outside of theirs and of the caller's, whose end must not end them. */
const shimsCgroup = "/caisson-library";
const racePatience = 20;

export function shimCgroupOf(shimId: string): string {
  return `${shimsCgroup}/${shimId.slice(0, 16)}`;
}

function linkOptions(directory: string, shimId: string, expected: LinkExpected): LinkOptions {
  const connect: Connect = (listeners, signal) =>
    connectShim({ podId: shimId, runDir: directory, expected, listeners, background: true, signal });
  return { podId: shimId, connect, log: silent };
}
type LinkExpected = Parameters<typeof connectShim>[0]["expected"];

export async function startContainerShim(
  machine: Machine,
  directory: string,
  shimId: string,
  signal: AbortSignal,
): Promise<ShimLink> {
  const path = shimCgroupOf(shimId);
  await makeShimCgroup(machine, path);
  try {
    const { into, taskFiles } = machine.shimCgroups.use(path);
    const fixed = {
      podId: shimId,
      runDir: directory,
      image: machine.image,
      cgroup: { directory: into === "" ? null : into, taskFiles },
      softNofile: null,
      stderrFd: null,
      env: [],
      background: true,
      signal,
    };
    const start: StartShim = (listeners) => startShim({ ...fixed, listeners });
    return await ShimLink.start(start, linkOptions(directory, shimId, null));
  } catch (error) {
    await removeShimCgroup(machine, shimId);
    throw error;
  }
}

/** Another process may take the common parent away in the very moment in which it is empty. */
async function makeShimCgroup(machine: Machine, path: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await machine.shimCgroups.make(path, {});
    } catch (error) {
      if (codeOf(error) !== "aborted" || attempt === racePatience) throw error;
      await sleep(attempt);
    }
  }
}

async function removeShimCgroup(machine: Machine, shimId: string): Promise<void> {
  await machine.shimCgroups.remove(shimCgroupOf(shimId));
  await machine.shimCgroups.removeIfEmpty(shimsCgroup);
}

/** undefined: it has ended. */
export async function connectContainerShim(
  directory: string,
  shimId: string,
  signal: AbortSignal,
): Promise<ShimLink | undefined> {
  const identity = await readShimIdentity(directory);
  const process = identity === undefined ? undefined : ProcessHandle.find(identity);
  if (process === undefined) return undefined;
  try {
    return await ShimLink.connect(process, linkOptions(directory, shimId, process.identity), signal);
  } catch (error) {
    process[Symbol.dispose]();
    // A helper that is just dying refuses connections a moment before its end can be seen.
    if (await Promise.race([process.ended.then(() => true), sleep(100, false, { ref: false })])) return undefined;
    throw error;
  }
}

/** Ends the helper, if there is one, with everything that it started, and takes away what was its own. Idempotent. */
export async function removeContainerShim(
  machine: Machine,
  directory: string,
  shimId: string,
  link: ShimLink | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (link !== undefined) await link.end(signal);
  else await killShim(directory);
  await removeShimCgroup(machine, shimId);
  for (const name of ["shim.sock", "shim.json", ".shim.json.partial", "exits"]) await removeStateTree(join(directory, name));
}

async function killShim(directory: string): Promise<void> {
  const identity = await readShimIdentity(directory);
  using process = identity === undefined ? undefined : ProcessHandle.find(identity);
  if (process === undefined) return;
  process.kill(sigkill);
  await process.waitEnded();
}
