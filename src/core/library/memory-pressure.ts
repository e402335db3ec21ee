/** Memory pressure of cgroup v1: an event counter that the kernel raises at a level (memory.pressure_level). */
import { closeSync, existsSync, openSync, writeFileSync } from "node:fs";
import { join } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import { directoryOfController } from "./cgroup-directory.ts";
import { EventQueue } from "./event-queue.ts";

export type PressureLevel = "low" | "medium" | "critical";
const levels: readonly string[] = ["low", "medium", "critical"];

/** @throws RuntimeError invalid_argument for another level, unimplemented where the memory controller is not v1. */
export function watchMemoryPressure(
  directories: Readonly<Record<string, string>>,
  level: PressureLevel,
): EventQueue<PressureLevel> {
  if (!levels.includes(level))
    throw new RuntimeError("invalid_argument", `memory pressure level ${JSON.stringify(level)} is not known`);
  const directory = directoryOfController(directories, "memory");
  if (directory === undefined) {
    throw new RuntimeError("unimplemented", "notifications of memory pressure need the memory controller of cgroup v1");
  }
  const counter = addon.eventfd();
  let pressure = -1;
  try {
    pressure = openSync(join(directory, "memory.pressure_level"), "r");
    writeFileSync(join(directory, "cgroup.event_control"), `${counter} ${pressure} ${level}`, { flag: "r+" });
  } catch (error) {
    addon.close(counter);
    throw error;
  } finally {
    if (pressure >= 0) closeSync(pressure);
  }
  const onEnd = () => queue.end();
  const onData = () => {
    // The removal of a cgroup raises all of its counters.
    if (existsSync(directory)) queue.push(level);
    else queue.end();
  };
  const reader = addon.readPipe(counter, onData, onEnd, true);
  const queue = new EventQueue<PressureLevel>(() => reader.close());
  return queue;
}
