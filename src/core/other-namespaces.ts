/** Namespaces of a container that are not its pod's: new ones, the node's, or others that have a path. */
import { constants } from "node:fs";
import { type FileHandle, open, readlink, statfs } from "node:fs/promises";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import type { PodShape } from "./namespace/pod-shape.ts";
import { nsKind } from "./plan-schema.ts";

/** "host": the node's. */
export type OtherNamespace = "new" | "host" | { readonly path: string };
export type OtherNamespaces = Readonly<Partial<Record<"network" | "ipc" | "uts", OtherNamespace>>>;

/** What a plan has to know of them. */
export interface PlannedNamespaces {
  readonly joined: readonly { readonly slot: number; readonly kind: number }[];
  /** Kinds that are made. */
  readonly made: number;
}

const kinds = {
  network: { kind: nsKind.net, link: "net" },
  ipc: { kind: nsKind.ipc, link: "ipc" },
  uts: { kind: nsKind.uts, link: "uts" },
} as const;

const nsfsMagic = 0x6e73_6673;

const entriesOf = (others: OtherNamespaces): [keyof OtherNamespaces, OtherNamespace][] =>
  Object.entries(others) as [keyof OtherNamespaces, OtherNamespace][];

/** The pod without what the container has otherwise: what is "new" in it is joined by its pin. */
export function shapeWithout(pod: PodShape, others: OtherNamespaces = {}): PodShape {
  const {
    network = pod.network,
    ipc = pod.ipc,
    uts = pod.uts,
  } = Object.fromEntries(Object.keys(others).map((type) => [type, "host" as const]));
  return { ...pod, network, ipc, uts };
}

/** Whether the container has a network that is not the node's. */
export function hasOwnNetwork(pod: PodShape, { network }: OtherNamespaces = {}): boolean {
  return network === undefined ? pod.network === "new" : network !== "host";
}

/** Those with a path, open; they belong to whoever opens them. */
export class OpenNamespaces implements AsyncDisposable {
  readonly #others: OtherNamespaces;
  readonly #files: FileHandle[] = [];
  readonly #kinds: number[] = [];

  private constructor(others: OtherNamespaces) {
    this.#others = others;
  }

  /** @throws RuntimeError invalid_argument for a path that is no such namespace, or that the pod's user namespace cannot enter. */
  static async open(pod: PodShape, others: OtherNamespaces = {}): Promise<OpenNamespaces> {
    const opened = new OpenNamespaces(others);
    try {
      for (const [type, wanted] of entriesOf(others)) {
        if (wanted !== "new" && pod.user !== null)
          throw invalid(`the ${type} namespace of a container in a pod with a user namespace must be the pod's or a new one`);
        if (typeof wanted === "object") await opened.#add(type, wanted.path);
      }
    } catch (error) {
      await opened[Symbol.asyncDispose]();
      throw error;
    }
    return opened;
  }

  get fds(): readonly number[] {
    return this.#files.map(({ fd }) => fd);
  }

  planned(firstSlot: number): PlannedNamespaces {
    return {
      joined: this.#kinds.map((kind, at) => ({ slot: firstSlot + at, kind })),
      made: entriesOf(this.#others).reduce((bits, [type, wanted]) => bits | (wanted === "new" ? kinds[type].kind : 0), 0),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of this.#files.splice(0)) await file.close();
  }

  async #add(type: keyof OtherNamespaces, path: string): Promise<void> {
    const { kind, link } = kinds[type];
    let file: FileHandle;
    try {
      // A pipe without a writer must not hold anybody up.
      file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      throw invalid(`${type} namespace ${path} cannot be opened: ${messageOf(error)}`);
    }
    this.#files.push(file);
    this.#kinds.push(kind);
    if (!(await isNamespace(file.fd, link))) throw invalid(`${path} is no ${type} namespace`);
  }
}

/** By its name where it has one; of one that is bound to a file the kernel tells when it is joined. */
async function isNamespace(fd: number, link: string): Promise<boolean> {
  const path = `/proc/self/fd/${fd}`;
  const [{ type }, name] = await Promise.all([statfs(path), readlink(path)]);
  return type === nsfsMagic && (name.startsWith("/") || name.startsWith(`${link}:[`));
}

function invalid(message: string): RuntimeError {
  return new RuntimeError("invalid_argument", message);
}
