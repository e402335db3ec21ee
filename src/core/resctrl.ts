/** Intel RDT by way of resctrl (libcontainer section 9; runtime-spec "IntelRdt"): a class of service, and groups to measure. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path/posix";
import { errnoName, RuntimeError } from "../lib/errors.ts";
import type { OciIntelRdt } from "./oci.ts";

/** Number of the barrier at which a process gets its class: everything that it starts inherits that. */
export const rdtBarrier = 6;

export interface ResctrlPlace {
  readonly mount: string;
  readonly group: string;
  /** Empty: nothing is measured. */
  readonly monitor: string;
}

/** A container without a name for its class has one of its own. */
export function resctrlPlace(mount: string, id: string, { closID = "", enableMonitoring }: OciIntelRdt): ResctrlPlace {
  const group = closID === "/" ? mount : join(mount, closID === "" ? id : closID);
  return { mount, group, monitor: enableMonitoring === true ? join(group, "mon_groups", id) : "" };
}

/** Mount point in the text of /proc/self/mountinfo; undefined: there is none. */
export function resctrlMount(mountinfo: string): string | undefined {
  const line = mountinfo.split("\n").find((one) => / - resctrl /.test(one));
  return line?.split(" ")[4];
}

/** @throws RuntimeError invalid_argument; failed_precondition where resctrl is not mounted. */
export function checkIntelRdt(rdt: OciIntelRdt | undefined, mounted: () => string | undefined): void {
  if (rdt === undefined) return;
  const { closID = "" } = rdt;
  if (closID === "." || closID === ".." || (closID !== "/" && closID.includes("/")) || closID.includes("\n"))
    throw new RuntimeError("invalid_argument", `intelRdt.closID ${JSON.stringify(closID)} is no name of a class of service`);
  for (const line of schemataOf(rdt)) {
    if (!/^[A-Z0-9_]+:[^\n]+$/.test(line))
      throw new RuntimeError("invalid_argument", `intelRdt: ${JSON.stringify(line)} is no schema`);
  }
  if (mounted() !== undefined) return;
  const remedy = "the processor needs RDT, and the kernel resctrl, mounted at /sys/fs/resctrl";
  throw new RuntimeError("failed_precondition", `intelRdt cannot be applied: resctrl is not mounted on this node (${remedy})`);
}

/** Makes what is missing and writes what is asked for. */
export function makeResctrl({ mount, group, monitor }: ResctrlPlace, rdt: OciIntelRdt): void {
  const { closID = "" } = rdt;
  const schemata = schemataOf(rdt);
  if (existsSync(group)) checkSame(group, schemata);
  else if (closID !== "" && schemata.length === 0)
    throw new RuntimeError("failed_precondition", `intelRdt: there is no class of service ${closID}, and no schema to make one`);
  else {
    makeGroup(mount, group);
    if (schemata.length > 0) write(mount, join(group, "schemata"), `${schemata.join("\n")}\n`);
  }
  if (monitor !== "" && !existsSync(monitor)) makeGroup(mount, monitor);
}

/** What it starts from now on begins there. */
export function enterResctrl({ mount, group, monitor }: ResctrlPlace, pid: number): void {
  for (const directory of [group, monitor]) if (directory !== "") write(mount, join(directory, "tasks"), String(pid));
}

/** A class that has a name of its own is shared, and stays. */
export function removeResctrl({ group, monitor }: ResctrlPlace, { closID = "" }: OciIntelRdt): void {
  for (const directory of [monitor, closID === "" ? group : ""]) if (directory !== "") removeGroup(directory);
}

function removeGroup(directory: string): void {
  try {
    rmdirSync(directory);
  } catch (error) {
    if (errnoName(error) !== "ENOENT") throw error;
  }
}

/** The place of a container on this machine; undefined: it asks for none, or resctrl is gone. */
export function findResctrl(id: string, rdt: OciIntelRdt | undefined): ResctrlPlace | undefined {
  const mount = rdt === undefined ? undefined : mountedResctrl();
  return rdt === undefined || mount === undefined ? undefined : resctrlPlace(mount, id, rdt);
}

/** Nothing of the container runs any more. */
export function leaveResctrl(id: string, rdt: OciIntelRdt | undefined): void {
  const place = findResctrl(id, rdt);
  if (place !== undefined && rdt !== undefined) removeResctrl(place, rdt);
}

/** For who no longer knows what the container asked for: whatever has its name goes. */
export function sweepResctrl(id: string): void {
  // Where the kernel has no resctrl the mount table, which may be long, says nothing.
  const mount = existsSync("/sys/fs/resctrl") ? mountedResctrl() : undefined;
  if (mount === undefined) return;
  const classes = ["", ...readdirSync(mount).filter((name) => existsSync(join(mount, name, "mon_groups")))];
  for (const name of [...classes.map((one) => join(mount, one, "mon_groups", id)), join(mount, id)]) removeGroup(name);
}

export function mountedResctrl(): string | undefined {
  return resctrlMount(readFileSync("/proc/self/mountinfo", "utf8"));
}

function schemataOf({ l3CacheSchema = "", memBwSchema = "", schemata = [] }: OciIntelRdt): readonly string[] {
  return [...[l3CacheSchema, memBwSchema].filter((line) => line !== "").flatMap((text) => text.trim().split("\n")), ...schemata];
}

/** The specification wants an error, not a change of what others share. */
function checkSame(group: string, schemata: readonly string[]): void {
  const plain = (line: string) => line.replaceAll(/\s/g, "").replaceAll(/=0+(?=[0-9a-f])/g, "=");
  const present = new Set(readFileSync(join(group, "schemata"), "utf8").split("\n").map(plain));
  const other = schemata.find((line) => !present.has(plain(line)));
  if (other === undefined) return;
  throw new RuntimeError(
    "failed_precondition",
    `intelRdt: the class of service ${group} exists and differs from ${JSON.stringify(other)}`,
  );
}

function makeGroup(mount: string, directory: string): void {
  try {
    mkdirSync(directory, { mode: 0o755 });
  } catch (error) {
    throw explained(mount, `${directory} cannot be made`, error);
  }
}

function write(mount: string, path: string, text: string): void {
  try {
    writeFileSync(path, text, { flag: "r+" });
  } catch (error) {
    throw explained(mount, `${path} does not take ${JSON.stringify(text)}`, error);
  }
}

/** resctrl says why in a file of its own. */
function explained(mount: string, what: string, error: unknown): RuntimeError {
  let status = "";
  try {
    status = readFileSync(join(mount, "info/last_cmd_status"), "utf8").trim();
  } catch {
    // The errno has to do.
  }
  return new RuntimeError(
    "failed_precondition",
    `intelRdt: ${what}: ${status === "" ? (errnoName(error) ?? String(error)) : status}`,
    {},
    error,
  );
}
