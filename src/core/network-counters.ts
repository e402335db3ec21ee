/**
 * Counters of the interfaces of a pod's network namespace. No thread of ours enters it: a child of the shim, which is inside, opens
 * /proc/self/net/dev as a path (O_PATH) and hands it over, once. Opened anew through /proc/self/fd, it is that namespace's file
 * whatever has become of the child, and it keeps nothing of the namespace alive.
 */
import { RuntimeError } from "../lib/errors.ts";
import { addon } from "../native/addon.ts";
import { errnoNameOf, errnoText } from "../native/errno.ts";
import type { InterfaceCounters } from "./runtime.ts";

/** Returns a descriptor of the file, which is then the reader's. */
export type OpenCounters = () => Promise<number>;

export class NetworkCounters {
  readonly #open: OpenCounters;
  #file: Promise<number> | undefined;
  #readers = 0;
  #closed = false;

  constructor(open: OpenCounters) {
    this.#open = open;
  }

  async read(): Promise<readonly InterfaceCounters[]> {
    if (this.#closed) throw new RuntimeError("unavailable", "the pod's network namespace is going away");
    this.#file ??= this.#open();
    const file = this.#file;
    this.#readers += 1;
    try {
      const [text = 0] = await addon.readFiles([`/proc/self/fd/${await file}`]);
      if (typeof text === "string") return interfacesOf(text);
      throw new RuntimeError("unavailable", `the pod's network counters cannot be read: ${errnoText(text)}`, {
        errnoName: errnoNameOf(text),
      });
    } catch (error) {
      // A helper that could not open it is asked again by the next call.
      if (this.#file === file) await file.catch(() => (this.#file = undefined));
      throw error;
    } finally {
      this.#readers -= 1;
      this.#closeWhenUnread();
    }
  }

  /** A read under way still ends: another file might get the number of a closed one. */
  close(): void {
    this.#closed = true;
    this.#closeWhenUnread();
  }

  #closeWhenUnread(): void {
    if (!this.#closed || this.#readers > 0) return;
    const file = this.#file;
    this.#file = undefined;
    file?.then((fd) => addon.close(fd)).catch(() => {});
  }
}

/** /proc/net/dev without the loopback: eight numbers for what came in, eight for what went out. */
export function interfacesOf(text: string): readonly InterfaceCounters[] {
  return text.split("\n").flatMap((line) => {
    const [, name, rest = ""] = /^\s*(\S+):\s*([0-9 ]+)$/.exec(line) ?? [];
    if (name === undefined || name === "lo") return [];
    const [rxBytes, rxPackets, rxErrors, rxDropped, , , , , txBytes, txPackets, txErrors, txDropped] = rest
      .trim()
      .split(/ +/)
      .map((value) => BigInt(value));
    if (txDropped === undefined) return [];
    return { name, rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped } as InterfaceCounters;
  });
}
