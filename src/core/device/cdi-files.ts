/** CDI specification files as they lie in their directories, read again when they change. */
import { constants, type Stats } from "node:fs";
import { type FileHandle, open, readdir, stat } from "node:fs/promises";
import { join } from "node:path/posix";
import { errnoName, messageOf, RuntimeError } from "../../lib/errors.ts";
import { type CdiSpec, checkCdiSpec } from "./cdi-spec.ts";

export interface CdiFile {
  readonly path: string;
  /** Place of its directory in the configuration; the higher one wins. */
  readonly priority: number;
  /** undefined: the file cannot be used, and `problem` says why. */
  readonly spec: CdiSpec | undefined;
  readonly problem: string;
}

const mostBytes = 1 << 20;
const mostFiles = 4096;

interface Known {
  readonly stamp: string;
  readonly file: CdiFile;
}

export class CdiFiles {
  readonly #directories: readonly string[];
  readonly #onProblem: (sentence: string) => void;
  #known = new Map<string, Known>();

  /** Later directories have precedence. `onProblem` hears once of each file that cannot be used. */
  constructor(directories: readonly string[], onProblem: (sentence: string) => void = () => {}) {
    this.#directories = directories;
    this.#onProblem = onProblem;
  }

  /** What lies there now. Costs a look at each file; only those that changed are read. */
  async read(): Promise<readonly CdiFile[]> {
    const known = new Map<string, Known>();
    for (const [priority, directory] of this.#directories.entries()) {
      const paths = (await specNames(directory)).map((name) => join(directory, name));
      const stamps = await Promise.all(paths.map(stampAt));
      for (const [at, path] of paths.entries()) {
        const before = this.#known.get(path);
        const found = before !== undefined && before.stamp === stamps[at] ? before : await this.#look(path, priority);
        if (found !== undefined) known.set(path, found);
      }
    }
    this.#known = known;
    return [...known.values()].map(({ file }) => file);
  }

  async #look(path: string, priority: number): Promise<Known | undefined> {
    let handle: FileHandle;
    try {
      // Without O_NONBLOCK a FIFO would hang the open.
      handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      if (errnoName(error) === "ENOENT") return undefined;
      return this.#unusable(path, priority, `error ${errnoName(error)}`, messageOf(error));
    }
    try {
      const stats = await handle.stat();
      const stamp = stampOf(stats);
      try {
        const spec = checkCdiSpec(await parse(path, await readText(handle, stats)));
        return { stamp, file: { path, priority, spec, problem: "" } };
      } catch (error) {
        return this.#unusable(path, priority, stamp, messageOf(error));
      }
    } finally {
      await handle.close();
    }
  }

  #unusable(path: string, priority: number, stamp: string, problem: string): Known {
    if (this.#known.get(path)?.stamp !== stamp) this.#onProblem(`CDI specification ${path} cannot be used: ${problem}`);
    return { stamp, file: { path, priority, spec: undefined, problem } };
  }
}

/** Other names belong to editors and to writers that are not done. A missing directory is an empty one. */
async function specNames(directory: string): Promise<readonly string[]> {
  try {
    const names = (await readdir(directory)).filter((name) => /\.(?:json|yaml)$/.test(name)).sort();
    if (names.length <= mostFiles) return names;
    throw new RuntimeError("resource_exhausted", `${directory} holds ${names.length} CDI specifications, more than ${mostFiles}`);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return [];
    throw error;
  }
}

const stampOf = ({ dev, ino, size, mtimeMs, ctimeMs }: Stats): string => [dev, ino, size, mtimeMs, ctimeMs].join(" ");

/** undefined: it must be opened to see what is wrong with it. */
async function stampAt(path: string): Promise<string | undefined> {
  return await stat(path).then(stampOf, () => undefined);
}

async function readText(handle: FileHandle, stats: Stats): Promise<string> {
  if (!stats.isFile()) throw new RuntimeError("invalid_argument", "it is not a regular file");
  // Whoever can write a specification can mount any part of the node.
  if ((stats.mode & 0o002) !== 0) throw new RuntimeError("invalid_argument", "everybody on the node may write it");
  if (stats.size > mostBytes) throw new RuntimeError("invalid_argument", `it is larger than ${mostBytes} bytes`);
  const buffer = Buffer.alloc(stats.size);
  const { bytesRead } = await handle.read(buffer, 0, buffer.length, 0);
  return new TextDecoder("utf-8", { fatal: true }).decode(buffer.subarray(0, bytesRead));
}

/** Both formats go through one parser, which refuses a key that is there twice; JSON keeps its narrower grammar besides. */
async function parse(path: string, text: string): Promise<unknown> {
  const isJson = path.endsWith(".json");
  if (isJson) JSON.parse(text);
  // Most nodes have no such file.
  const yaml = await import("yaml");
  try {
    // 1.1 is what all who write these files use: 0660 is octal there.
    return yaml.parse(text, { version: isJson ? "1.2" : "1.1", logLevel: "error" });
  } catch (error) {
    // The rest of the message is a picture of the place.
    throw new RuntimeError("invalid_argument", messageOf(error).split("\n", 1)[0] ?? "", {}, error);
  }
}
