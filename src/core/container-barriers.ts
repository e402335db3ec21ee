/** What the daemon does for a container's processes while they wait in the middle of their plans. */
import { readFileSync } from "node:fs";
import { RuntimeError } from "../lib/errors.ts";
import { type HookState, hasCreationHooks, runCreationHooks } from "./hooks.ts";
import { checkNetDevices, moveNetDevices } from "./network-devices.ts";
import type { OciNetDevices, OciSpec } from "./oci.ts";
import { handedBarrier, SeccompHandOver, seccompBarrier } from "./process/seccomp-listener.ts";
import { checkIntelRdt, enterResctrl, findResctrl, makeResctrl, mountedResctrl, rdtBarrier } from "./resctrl.ts";
import type { RunRequest } from "./shim/requests.ts";

/** Number of the barrier at which a container's class of service, network devices and runtime hooks are seen to. */
export const setUpBarrier = 2;

/** Whether somebody has to do something from outside between namespaces and pivot. */
export function waitsForSetUp({ hooks, linux }: OciSpec): boolean {
  return hasCreationHooks(hooks) || linux.intelRdt !== undefined || Object.keys(linux.netDevices ?? {}).length > 0;
}

/** What can be told before anything is made. @throws RuntimeError. */
export function checkSetUp({ linux }: OciSpec, podHasNetwork: boolean): void {
  checkNetDevices(linux.netDevices, podHasNetwork);
  checkIntelRdt(linux.intelRdt, mountedResctrl);
}

export interface Waiting {
  readonly id: string;
  readonly oci: OciSpec;
  readonly state: HookState;
  readonly run: (request: RunRequest) => Promise<unknown>;
  readonly signal: AbortSignal;
}

type OnBarrier = (number: number, pid: number) => Promise<void>;

/** For the first process. */
export function initBarriers({ id, oci, state, run, signal }: Waiting): OnBarrier {
  const listens = listenerBarriers({ id, oci, state, run, signal });
  return async (number, pid) => {
    if (number !== setUpBarrier) return await listens(number, pid, pid, "creating");
    const { intelRdt, netDevices = {} } = oci.linux;
    const place = findResctrl(id, intelRdt);
    if (place !== undefined && intelRdt !== undefined) {
      makeResctrl(place, intelRdt);
      enterResctrl(place, pid);
    }
    await moveNetDevices(notYetMoved(netDevices, pid), pid, run, signal);
    await runCreationHooks(oci.hooks, state, pid, signal);
  };
}

/** For a further process of the container whose first one is `init`. */
export function execBarriers(waiting: Waiting, init: number): OnBarrier {
  const listens = listenerBarriers(waiting);
  return async (number, pid) => {
    if (number !== rdtBarrier) return await listens(number, pid, init, "running");
    const place = findResctrl(waiting.id, waiting.oci.linux.intelRdt);
    if (place !== undefined) enterResctrl(place, pid);
  };
}

function listenerBarriers({ oci, state, run, signal }: Waiting) {
  const handOver = new SeccompHandOver(run, signal);
  return async (number: number, pid: number, init: number, status: "creating" | "running"): Promise<void> => {
    const profile = oci.linux.seccomp;
    if (number === seccompBarrier && profile !== undefined)
      return await handOver.connect(pid, { state: { ...state, status, pid: init }, profile });
    if (number === handedBarrier) return await handOver.handed();
    throw new RuntimeError("internal", `nobody knows what barrier ${number} is for`);
  };
}

/** The namespace is the pod's: an earlier container, or an earlier life of this one, may have brought the device into it. */
function notYetMoved(devices: OciNetDevices, pid: number): OciNetDevices {
  const names = (file: string) => new Set([...readFileSync(file, "utf8").matchAll(/^\s*(\S+):/gm)].map(([, name]) => name));
  if (Object.keys(devices).length === 0) return devices;
  const inside = names(`/proc/${pid}/net/dev`);
  const outside = names("/proc/self/net/dev");
  const moved = (from: string, to: string) => inside.has(to) && !outside.has(from);
  return Object.fromEntries(Object.entries(devices).filter(([from, { name: to = from }]) => !moved(from, to)));
}
