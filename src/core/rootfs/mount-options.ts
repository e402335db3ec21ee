/**
 * OCI mount options, sorted by what the kernel takes them as (reference: runtime-spec "Linux mount options", libcontainer 3.3).
 * Words that no table knows are data of the filesystem.
 */
import { mountAttr, propagation } from "./mount-flags.ts";

/** Attributes to set and to clear, as mount_setattr takes them. */
export interface AttrChange {
  readonly set: number;
  readonly clear: number;
}

export interface Propagation {
  readonly type: number;
  readonly recursive: boolean;
}

export interface MountOptions {
  readonly bind: boolean;
  /** With `bind`: the whole tree below the source. */
  readonly recursive: boolean;
  readonly attrs: AttrChange;
  /** For the mount and everything below it (rro, rnosuid, ...). */
  readonly recursiveAttrs: AttrChange;
  /** In the order given; `recursive` for the r-forms. */
  readonly propagation: readonly Propagation[];
  /** undefined: not asked for; by mappings of the mount or by the container's user namespace. */
  readonly idmap: { readonly recursive: boolean } | undefined;
  /** A tmpfs that starts with a copy of the directory that it covers. */
  readonly copyUp: boolean;
  /** Options for fsconfig. */
  readonly data: readonly string[];
}

// Maps, not objects: the words come from requests, and "constructor" must not be found.
const setAttrs: ReadonlyMap<string, number> = new Map([
  ["ro", mountAttr.rdonly],
  ["nosuid", mountAttr.nosuid],
  ["nodev", mountAttr.nodev],
  ["noexec", mountAttr.noexec],
  ["nodiratime", mountAttr.nodiratime],
  ["nosymfollow", mountAttr.nosymfollow],
]);
const clearAttrs: ReadonlyMap<string, number> = new Map([
  ["rw", mountAttr.rdonly],
  ["suid", mountAttr.nosuid],
  ["dev", mountAttr.nodev],
  ["exec", mountAttr.noexec],
  ["diratime", mountAttr.nodiratime],
  ["symfollow", mountAttr.nosymfollow],
]);
/** Access-time modes: one field in the kernel, so setting one clears the mask. */
const atimeModes: ReadonlyMap<string, number> = new Map([
  ["noatime", mountAttr.noatime],
  ["relatime", mountAttr.relatime],
  ["strictatime", mountAttr.strictatime],
  ["atime", mountAttr.relatime],
  ["norelatime", mountAttr.strictatime],
  ["nostrictatime", mountAttr.relatime],
]);
const propagationWords: ReadonlyMap<string, Propagation> = new Map(
  Object.entries(propagation).flatMap(([word, type]): [string, Propagation][] => [
    [word, { type, recursive: false }],
    [`r${word}`, { type, recursive: true }],
  ]),
);
/** Flags of the superblock: fsconfig takes these words as they are. */
const superblockFlags = new Set(["sync", "dirsync", "mand", "lazytime"]);
const ignored = new Set(["defaults", "async", "nomand", "nolazytime", "silent", "loud", "iversion", "noiversion", "remount"]);

class AttrBuilder {
  #set = 0;
  #clear = 0;

  /** Takes the word if it is an attribute; a later word wins over an earlier one. */
  take(word: string): boolean {
    const atime = atimeModes.get(word);
    if (atime !== undefined) {
      this.#set = (this.#set & ~mountAttr.atimeMask) | atime;
      this.#clear |= mountAttr.atimeMask;
      return true;
    }
    const set = setAttrs.get(word);
    if (set !== undefined) {
      this.#set |= set;
      this.#clear &= ~set;
      return true;
    }
    const clear = clearAttrs.get(word);
    if (clear === undefined) return false;
    this.#clear |= clear;
    this.#set &= ~clear;
    return true;
  }

  finish(): AttrChange {
    return { set: this.#set, clear: this.#clear };
  }
}

/** Never fails: an option that nobody knows is left to the filesystem, which refuses it with its own reason. */
export function parseMountOptions(options: readonly string[]): MountOptions {
  const attrs = new AttrBuilder();
  const recursiveAttrs = new AttrBuilder();
  const propagations: Propagation[] = [];
  const data: string[] = [];
  let bind = false;
  let recursive = false;
  let idmap: MountOptions["idmap"];
  let copyUp = false;
  for (const word of options) {
    if (word === "bind" || word === "rbind") {
      bind = true;
      recursive ||= word === "rbind";
    } else if (word === "idmap" || word === "ridmap") idmap = { recursive: word === "ridmap" };
    else if (word === "tmpcopyup") copyUp = true;
    else if (ignored.has(word) || attrs.take(word)) continue;
    else if (superblockFlags.has(word)) data.push(word);
    else if (word.startsWith("r") && recursiveAttrs.take(word.slice(1))) continue;
    else {
      const found = propagationWords.get(word);
      if (found === undefined) data.push(word);
      else propagations.push(found);
    }
  }
  return {
    bind,
    recursive,
    attrs: attrs.finish(),
    recursiveAttrs: recursiveAttrs.finish(),
    propagation: propagations,
    idmap,
    copyUp,
    data,
  };
}

/** Every word that is known here and not left to the filesystem. */
export function mountOptionWords(): readonly string[] {
  const attrs = [...setAttrs.keys(), ...clearAttrs.keys(), ...atimeModes.keys()];
  const special = ["bind", "rbind", "idmap", "ridmap", "tmpcopyup"];
  return [
    ...special,
    ...attrs,
    ...attrs.map((word) => `r${word}`),
    ...propagationWords.keys(),
    ...superblockFlags,
    ...ignored,
  ].toSorted();
}

/** Whether an attribute is asked for at all. */
export function changesAttrs(change: AttrChange): boolean {
  return change.set !== 0 || change.clear !== 0;
}
