/** An OCI bundle: a directory with a config.json. */
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fromOciSpec, type OciConfig, type ProcessSpec, processFromOci } from "../../core/library/public.ts";
import { errnoName, messageOf } from "../../lib/errors.ts";
import type { CommandContext } from "../command.ts";
import { CommandError } from "../command-error.ts";

export function readJson(file: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new CommandError(`${file}: ${messageOf(error)}`);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new CommandError(`${file} is no JSON: ${messageOf(error)}`);
  }
}

function readObject(file: string): object {
  const value = readJson(file);
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new CommandError(`${file} is no JSON object`);
  return value;
}

/** `directory`: as the caller wrote it. `systemdCgroup`: its cgroupsPath is meant for systemd. */
export function readBundle(
  directory: string,
  { systemdCgroup }: Pick<CommandContext, "systemdCgroup"> = { systemdCgroup: false },
): OciConfig & { readonly bundle: string } {
  const bundle = resolve(directory);
  const file = join(bundle, "config.json");
  try {
    readFileSync(file);
  } catch (error) {
    if (errnoName(error) !== "ENOENT") throw new CommandError(`${file}: ${messageOf(error)}`);
    throw new CommandError(`JSON specification file config.json not found in ${bundle}: make one with caisson spec`);
  }
  const { config, process } = fromOciSpec(readObject(file), bundle);
  const cgroups = systemdCgroup ? { cgroups: { ...config.cgroups, systemd: true } } : {};
  return { config: { ...config, ...cgroups }, process, bundle };
}

/** The process of a config.json alone, as `exec --process` has it. */
export function readProcess(file: string): ProcessSpec {
  return processFromOci(readObject(file));
}
