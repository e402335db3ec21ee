import { readFileSync } from "node:fs";
import { mergeResources, type Resources } from "../../core/library/public.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Command } from "../command.ts";
import { CommandError } from "../command-error.ts";
import type { Flags } from "../flags.ts";
import { readJson } from "./bundle.ts";
import { loadContainer } from "./loaded.ts";
import { flagResources } from "./resource-flags.ts";

export const update: Command = {
  name: "update",
  arguments: "ID",
  summary: "change the limits of a container, all or none",
  details: "Sizes take a unit: 64m, 1g. -1 is no limit. What is not named stays as it is, device rules always.",
  arity: [1, 1],
  flags: {
    resources: {
      short: "r",
      value: "FILE",
      about: "linux.resources as config.json has them, - for stdin; other flags are ignored then",
    },
    memory: { value: "BYTES", about: "most memory" },
    "memory-reservation": { value: "BYTES", about: "memory that is kept from reclaim as long as there is some" },
    "memory-swap": { value: "BYTES", about: "most memory and swap together" },
    "cpu-shares": { value: "N", about: "share of the processors, relative to others" },
    "cpu-share": { value: "N", about: "as --cpu-shares", hidden: true },
    "cpu-quota": { value: "US", about: "microseconds of processor time in each period" },
    "cpu-period": { value: "US", about: "length of a period" },
    "cpu-burst": { value: "US", about: "how much of unused quota may be saved" },
    "cpu-idle": { value: "0|1", about: "run only when nothing else wants to" },
    "cpu-rt-period": { value: "US", about: "length of a period of real-time processes" },
    "cpu-rt-runtime": { value: "US", about: "time of real-time processes in each" },
    "cpuset-cpus": { value: "LIST", about: "processors, as 0-3,5" },
    "cpuset-mems": { value: "LIST", about: "memory nodes" },
    "pids-limit": { value: "N", about: "most processes and threads" },
    "blkio-weight": { value: "N", about: "share of block devices, 10 to 1000" },
    "l3-cache-schema": {
      value: "TEXT",
      about: "refused: a class of Intel RDT is given when the container is made",
      hidden: true,
    },
    "mem-bw-schema": { value: "TEXT", about: "refused: a class of Intel RDT is given when the container is made", hidden: true },
    "kernel-memory": { value: "BYTES", about: "ignored, as kernels do", hidden: true },
    "kernel-memory-tcp": { value: "BYTES", about: "ignored, as kernels do", hidden: true },
  },
  local: true,
  async run(context) {
    using container = await loadContainer(context);
    const config = container.config();
    const asked = askedOf(context.flags);
    for (const name of ["l3-cache-schema", "mem-bw-schema"]) {
      if (context.flags.has(name))
        throw new CommandError(`--${name}: a class of Intel RDT is given by linux.intelRdt when the container is made`);
    }
    const resources = mergeResources(config.cgroups?.resources ?? {}, asked);
    await container.set({ ...config, cgroups: { ...config.cgroups, resources } });
    return 0;
  },
};

function askedOf(flags: Flags): Resources {
  const file = flags.one("resources");
  if (file === undefined) return flagResources(flags);
  const value = file === "-" ? parseStdin() : readJson(file);
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new CommandError("the resources are no JSON object");
  return value as Resources;
}

function parseStdin(): unknown {
  try {
    return JSON.parse(readFileSync(0, "utf8"));
  } catch (error) {
    throw new CommandError(`the resources on stdin are no JSON: ${messageOf(error)}`);
  }
}
