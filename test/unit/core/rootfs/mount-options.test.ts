import { describe, expect, it } from "vitest";
import { mountAttr, propagation } from "../../../../src/core/rootfs/mount-flags.ts";
import { parseMountOptions } from "../../../../src/core/rootfs/mount-options.ts";

describe("mount options", () => {
  it("tells bind from rbind", () => {
    expect(parseMountOptions(["bind"])).toMatchObject({ bind: true, recursive: false });
    expect(parseMountOptions(["rbind"])).toMatchObject({ bind: true, recursive: true });
    expect(parseMountOptions(["ro"])).toMatchObject({ bind: false, recursive: false });
  });

  it("lets a later word win over an earlier one", () => {
    expect(parseMountOptions(["ro", "rw"]).attrs).toEqual({ set: 0, clear: mountAttr.rdonly });
    expect(parseMountOptions(["rw", "ro"]).attrs).toEqual({ set: mountAttr.rdonly, clear: 0 });
  });

  it("clears the whole access-time field before it sets a mode", () => {
    expect(parseMountOptions(["noatime"]).attrs).toEqual({ set: mountAttr.noatime, clear: mountAttr.atimeMask });
    expect(parseMountOptions(["noatime", "strictatime"]).attrs).toEqual({
      set: mountAttr.strictatime,
      clear: mountAttr.atimeMask,
    });
    expect(parseMountOptions(["relatime"]).attrs).toEqual({ set: 0, clear: mountAttr.atimeMask });
  });

  it("keeps attributes of the whole tree apart from those of the mount", () => {
    const options = parseMountOptions(["rbind", "rro", "rnosuid", "nodev"]);
    expect(options.recursiveAttrs).toEqual({ set: mountAttr.rdonly | mountAttr.nosuid, clear: 0 });
    expect(options.attrs).toEqual({ set: mountAttr.nodev, clear: 0 });
  });

  it("knows propagation words and their recursive forms", () => {
    expect(parseMountOptions(["rslave"]).propagation).toEqual([{ type: propagation.slave, recursive: true }]);
    expect(parseMountOptions(["shared", "runbindable"]).propagation).toEqual([
      { type: propagation.shared, recursive: false },
      { type: propagation.unbindable, recursive: true },
    ]);
  });

  it("hands words that nobody knows to the filesystem, in order", () => {
    expect(parseMountOptions(["mode=755", "nosuid", "size=65536k", "sync", "acl"]).data).toEqual([
      "mode=755",
      "size=65536k",
      "sync",
      "acl",
    ]);
  });

  it("does not take names of JavaScript for options", () => {
    expect(parseMountOptions(["constructor", "toString"]).data).toEqual(["constructor", "toString"]);
  });

  it("drops words that say nothing", () => {
    expect(parseMountOptions(["defaults", "async", "loud"])).toMatchObject({ data: [], attrs: { set: 0, clear: 0 } });
  });

  it("knows id-mapped mounts and copied tmpfs", () => {
    expect(parseMountOptions(["idmap"]).idmap).toEqual({ recursive: false });
    expect(parseMountOptions(["ridmap"]).idmap).toEqual({ recursive: true });
    expect(parseMountOptions(["tmpcopyup"]).copyUp).toBe(true);
  });
});
