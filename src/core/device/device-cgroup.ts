/** Puts device rules in force for a cgroup. */
import { closeSync, openSync, writeSync } from "node:fs";
import { wrapError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import { openFlag } from "../../native/constants.ts";
import type { OciDeviceRule } from "../oci.ts";
import { deviceProgram } from "./device-program.ts";
import { type DeviceRule, type DeviceWrite, deviceRules, deviceWritesV1 } from "./device-rules.ts";

/** Before any process is in the cgroup. A machine without the v1 controller and without v2 has no device control at all. */
export function applyDeviceRules(
  place: { readonly version: 1 | 2; readonly directory: string },
  asked: readonly OciDeviceRule[],
): void {
  setDeviceRules(place, deviceRules(asked));
}

/** Exactly these rules, over "deny everything". */
export function setDeviceRules(
  place: { readonly version: 1 | 2; readonly directory: string },
  rules: readonly DeviceRule[],
): void {
  try {
    if (place.version === 1) writeRules(place.directory, deviceWritesV1(rules));
    else attachProgram(place.directory, deviceProgram(rules));
  } catch (error) {
    throw wrapError(`device rules of ${place.directory} cannot be set`, error);
  }
}

/** One rule per write is all that the kernel takes. Synchronous: a dozen writes of some microseconds each. */
function writeRules(directory: string, writes: readonly DeviceWrite[]): void {
  for (const [file, group] of Map.groupBy(consecutive(writes), ({ run, file }) => `${run} ${file}`)) {
    const fd = openSync(`${directory}/${file.slice(file.indexOf(" ") + 1)}`, openFlag.writeOnly);
    try {
      for (const { value } of group) writeSync(fd, value);
    } finally {
      closeSync(fd);
    }
  }
}

/** Numbers the stretches of writes to one file, so that a file is opened once per stretch and the order stays. */
function consecutive(writes: readonly DeviceWrite[]): readonly (DeviceWrite & { readonly run: number })[] {
  let run = 0;
  return writes.map((write, at) => {
    if (at > 0 && writes[at - 1]?.file !== write.file) run++;
    return { ...write, run };
  });
}

function attachProgram(directory: string, program: Buffer): void {
  const fd = openSync(directory, openFlag.readOnly | openFlag.directory);
  try {
    addon.attachDeviceProgram(fd, program);
  } finally {
    closeSync(fd);
  }
}
