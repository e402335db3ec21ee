/** The directory of a checkpoint's images, with what we have to know beyond CRIU: its own files are CRIU's. */
import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";
import { parseMountTable } from "./external-mounts.ts";
import { notesOfImages } from "./foreign-images.ts";

/** What descriptors 0, 1 and 2 of the first process were: a path in the container, or what CRIU calls something from outside. */
export type StdioNames = readonly [string, string, string];

/** `caisson.json`. */
export interface CheckpointNotes {
  readonly version: 1;
  readonly architecture: string;
  readonly externalMounts: readonly string[];
  readonly terminal: boolean;
  /** CRIU asks for the network namespace by name. */
  readonly externalNetwork?: boolean;
}

/** A mount from outside, by the name under which CRIU asks for it. */
export interface ExternalMount {
  readonly key: string;
  /** As the container sees it. */
  readonly mountPoint: string;
}

/** What a restore has to know, whoever has made the images. */
export interface RestoreNotes {
  readonly architecture: string;
  readonly terminal: boolean;
  readonly externals: readonly ExternalMount[];
  /** Names under which CRIU asks for namespaces that are not in the images. */
  readonly networkKey?: string;
  readonly pidKey?: string;
}

/** By which names CRIU asks for namespaces in our own images. */
export const pidNamespaceKey = "caissonPid";
export const netNamespaceKey = "caissonNet";

const stdioFile = "descriptors.json";
export const notesFile = "caisson.json";
const inventory = "inventory.img";

export class ImageDirectory implements Disposable {
  readonly path: string;
  readonly fd: number;

  private constructor(path: string) {
    this.path = path;
    this.fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  }

  /** Makes it, for root alone, with its parents. @throws RuntimeError failed_precondition when it holds a checkpoint. */
  static make(path: string): ImageDirectory {
    const directory = resolve(path);
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    if (existsSync(join(directory, inventory)))
      throw new RuntimeError("failed_precondition", `${directory} holds a checkpoint already`, { path: directory });
    return new ImageDirectory(directory);
  }

  /** @throws RuntimeError not_found when there are no images, data_loss when our own notes are missing or damaged. */
  static open(path: string): ImageDirectory {
    const directory = resolve(path);
    if (!existsSync(join(directory, inventory)))
      throw new RuntimeError("not_found", `${directory} holds no checkpoint: it has no ${inventory}`, { path: directory });
    return new ImageDirectory(directory);
  }

  writeNotes(notes: CheckpointNotes, stdio: StdioNames): void {
    writeFileSync(join(this.path, notesFile), `${JSON.stringify(notes)}\n`, { mode: 0o600 });
    writeFileSync(join(this.path, stdioFile), JSON.stringify(stdio), { mode: 0o600 });
  }

  /** @throws RuntimeError data_loss; failed_precondition for a checkpoint of another architecture, or of another runtime that has too little. */
  readNotes(): RestoreNotes {
    const notes = existsSync(join(this.path, notesFile)) ? this.#ownNotes() : notesOfImages(this.path, this.readStdio());
    if (notes.architecture === process.arch) return notes;
    throw new RuntimeError(
      "failed_precondition",
      `the checkpoint in ${this.path} is of ${notes.architecture}, this machine is ${process.arch}`,
    );
  }

  #ownNotes(): RestoreNotes {
    const notes = this.#readJson(notesFile) as Partial<CheckpointNotes> | null;
    const { architecture, externalMounts, terminal, externalNetwork } = notes ?? {};
    if (notes?.version !== 1 || typeof architecture !== "string" || !isStrings(externalMounts) || typeof terminal !== "boolean")
      throw this.#damaged(notesFile);
    return {
      architecture,
      terminal,
      externals: externalMounts.map((mountPoint) => ({ key: mountPoint, mountPoint })),
      ...(externalNetwork === true ? { networkKey: netNamespaceKey } : {}),
      pidKey: pidNamespaceKey,
    };
  }

  readStdio(): StdioNames {
    if (!existsSync(join(this.path, stdioFile)))
      throw new RuntimeError(
        "failed_precondition",
        `the checkpoint in ${this.path} cannot be restored: it lacks ${stdioFile}, the names of its stdin, stdout and stderr`,
      );
    const names = this.#readJson(stdioFile);
    if (!isStrings(names) || names.length !== 3) throw this.#damaged(stdioFile);
    return names as unknown as StdioNames;
  }

  [Symbol.dispose](): void {
    closeSync(this.fd);
  }

  #readJson(name: string): unknown {
    try {
      return JSON.parse(readFileSync(join(this.path, name), "utf8"));
    } catch (error) {
      throw this.#damaged(name, error);
    }
  }

  #damaged(name: string, cause?: unknown): RuntimeError {
    return new RuntimeError("data_loss", `the checkpoint in ${this.path} cannot be used: ${name} is damaged`, {}, cause);
  }
}

function isStrings(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

/** Names of a process's stdio. A file that lies on no mount of the container is external: CRIU knows it by mount and inode. */
export function stdioNames(
  pid: number,
  mountTable: string,
): { readonly names: StdioNames; readonly externalFiles: readonly string[] } {
  const mounts = new Set(parseMountTable(mountTable).map(({ id }) => id));
  const externalFiles: string[] = [];
  const name = (fd: number): string => {
    let link: string;
    try {
      link = readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      return "";
    }
    if (!link.startsWith("/")) return link;
    const mount = Number(/^mnt_id:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"))?.[1] ?? "0");
    if (mounts.has(mount)) return link;
    const key = `file[${mount.toString(16)}:${statSync(`/proc/${pid}/fd/${fd}`).ino.toString(16)}]`;
    externalFiles.push(key);
    return key;
  };
  return { names: [name(0), name(1), name(2)], externalFiles: [...new Set(externalFiles)] };
}
