/** What the kernel is told about a container's processes, as NRI plugins are told of it. */
import type { OciSeccomp, OciSpec } from "../core/oci.ts";
import * as nri from "../gen/nri/v1alpha1/api.ts";

type Policies = Pick<nri.LinuxContainer, "ioPriority" | "scheduler" | "seccompPolicy" | "netDevices" | "rdt">;

export function policiesMessage({ process, linux }: OciSpec): Policies {
  const { netDevices = {}, seccomp } = linux;
  return {
    ioPriority: ioPriorityMessage(process.ioPriority),
    scheduler: schedulerMessage(process.scheduler),
    seccompPolicy: seccomp === undefined ? undefined : seccompMessage(seccomp),
    netDevices: Object.fromEntries(Object.entries(netDevices).map(([host, { name = "" }]) => [host, { name }])),
    rdt: rdtMessage(linux.intelRdt),
  };
}

function ioPriorityMessage(given: OciSpec["process"]["ioPriority"]): nri.LinuxIOPriority | undefined {
  if (given === undefined) return undefined;
  return { class: nri.IOPrioClass[given.class as keyof typeof nri.IOPrioClass], priority: given.priority ?? 0 };
}

function schedulerMessage(given: OciSpec["process"]["scheduler"]): nri.LinuxScheduler | undefined {
  if (given === undefined) return undefined;
  return {
    policy: nri.LinuxSchedulerPolicy[given.policy as keyof typeof nri.LinuxSchedulerPolicy],
    nice: given.nice ?? 0,
    priority: given.priority ?? 0,
    flags: (given.flags ?? []).map((flag) => nri.LinuxSchedulerFlag[flag as keyof typeof nri.LinuxSchedulerFlag]),
    runtime: BigInt(given.runtime ?? 0),
    deadline: BigInt(given.deadline ?? 0),
    period: BigInt(given.period ?? 0),
  };
}

function seccompMessage(given: OciSeccomp): nri.LinuxSeccomp {
  const errno = (value: number | undefined): { value: number } | undefined => (value === undefined ? undefined : { value });
  return {
    defaultAction: given.defaultAction,
    defaultErrno: errno(given.defaultErrnoRet),
    architectures: [...(given.architectures ?? [])],
    flags: [...(given.flags ?? [])],
    listenerPath: given.listenerPath ?? "",
    listenerMetadata: given.listenerMetadata ?? "",
    syscalls: (given.syscalls ?? []).map(({ names, action, errnoRet, args = [] }) => ({
      names: [...names],
      action,
      errnoRet: errno(errnoRet),
      args: args.map(({ index, value, valueTwo = 0, op }) => ({ index, value: BigInt(value), valueTwo: BigInt(valueTwo), op })),
    })),
  };
}

/** The schemas that have fields of their own in the specification are lines like the others. */
function rdtMessage(given: OciSpec["linux"]["intelRdt"]): nri.LinuxRdt | undefined {
  if (given === undefined) return undefined;
  const { closID, l3CacheSchema, memBwSchema, schemata = [], enableMonitoring } = given;
  const lines = [l3CacheSchema, memBwSchema, ...schemata].filter((line) => line !== undefined);
  return {
    closId: closID === undefined ? undefined : { value: closID },
    schemata: lines.length === 0 ? undefined : { value: lines },
    enableMonitoring: enableMonitoring === undefined ? undefined : { value: enableMonitoring },
    remove: false,
  };
}
