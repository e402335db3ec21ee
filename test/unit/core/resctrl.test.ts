/** On a tree of plain files: no machine of ours has a processor with RDT. What a container without it is told is in library-attributes. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  checkIntelRdt,
  enterResctrl,
  makeResctrl,
  removeResctrl,
  resctrlMount,
  resctrlPlace,
} from "../../../src/core/resctrl.ts";

let mount: string;
beforeEach(() => {
  mount = mkdtempSync(join(tmpdir(), "caisson-resctrl-"));
});
afterEach(() => rmSync(mount, { recursive: true }));

/** The kernel fills a new group with files. */
function group(name: string, schemata: string): string {
  const directory = join(mount, name);
  mkdirSync(join(directory, "mon_groups"), { recursive: true });
  writeFileSync(join(directory, "schemata"), schemata);
  writeFileSync(join(directory, "tasks"), "");
  return directory;
}

describe("resctrl", () => {
  it("is found where it is mounted", () => {
    expect(resctrlMount("30 24 0:26 / /sys/fs/resctrl rw - resctrl resctrl rw\n")).toBe("/sys/fs/resctrl");
    expect(resctrlMount("30 24 0:26 / /sys rw - sysfs sysfs rw\n")).toBeUndefined();
  });

  it("has a group by the class's name, by the container's, or is the root itself", () => {
    expect(resctrlPlace("/r", "id", {}).group).toBe("/r/id");
    expect(resctrlPlace("/r", "id", { closID: "gold", enableMonitoring: true })).toEqual({
      mount: "/r",
      group: "/r/gold",
      monitor: "/r/gold/mon_groups/id",
    });
    expect(resctrlPlace("/r", "id", { closID: "/" }).group).toBe("/r");
  });

  it("takes an existing class that says the same, gives it the process, and lets it stay", () => {
    const directory = group("gold", "    L3:0=0f;1=0f\n    MB:0=100\n");
    const rdt = { closID: "gold", l3CacheSchema: "L3:0=f;1=f", enableMonitoring: true };
    const place = resctrlPlace(mount, "id", rdt);
    makeResctrl(place, rdt);
    expect(existsSync(place.monitor)).toBe(true);
    writeFileSync(join(place.monitor, "tasks"), "");
    enterResctrl(place, 77);
    expect(readFileSync(join(directory, "tasks"), "utf8")).toBe("77");
    rmSync(join(place.monitor, "tasks"));
    removeResctrl(place, rdt);
    expect([existsSync(directory), existsSync(place.monitor)]).toEqual([true, false]);
  });

  it("refuses a class that differs, and one that is not there and has no schema", () => {
    group("gold", "L3:0=f\n");
    const differs = { closID: "gold", schemata: ["L3:0=3"] };
    expect(() => makeResctrl(resctrlPlace(mount, "id", differs), differs)).toThrow('differs from "L3:0=3"');
    const absent = { closID: "silver" };
    expect(() => makeResctrl(resctrlPlace(mount, "id", absent), absent)).toThrow("there is no class of service silver");
  });

  it("says in the kernel's words why a schema is refused", () => {
    mkdirSync(join(mount, "info"));
    writeFileSync(join(mount, "info/last_cmd_status"), "Mask out of range\n");
    const rdt = { schemata: ["L3:0=fff"] };
    // Plain directories have no schemata file: the write fails.
    expect(() => makeResctrl(resctrlPlace(mount, "id", rdt), rdt)).toThrow("Mask out of range");
  });

  it.each([
    [{ closID: ".." }, "is no name of a class"],
    [{ closID: "a/b" }, "is no name of a class"],
    [{ schemata: ["nonsense"] }, "is no schema"],
    [{ l3CacheSchema: "L3:0=f\nx" }, "is no schema"],
  ])("%j is refused", (rdt, message) => {
    expect(() => checkIntelRdt(rdt, () => mount)).toThrow(message);
  });
});
