/** Copies of records beside what they describe: a lost or older database is made whole from them. */
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";

/** Replaces a file as a whole and for good. Does not block the event loop. */
export async function writeDurably(path: string, content: string): Promise<void> {
  const partial = `${path}.partial`;
  {
    await using file = await open(partial, "w", 0o600);
    await file.writeFile(content);
    await file.sync();
  }
  await rename(partial, path);
  await syncNames(dirname(path));
}

/** Makes the names in a directory survive a power loss. */
export async function syncNames(dir: string): Promise<void> {
  await using handle = await open(dir, "r");
  await handle.sync();
}

/** Undefined for a file that is missing or was not written to its end. */
export async function readDocument<T>(path: string): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(path, "utf8")) as T;
  } catch {
    return undefined;
  }
}

/** One JSON file per document. */
export class DocumentDirectory<T> {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  async load(): Promise<ReadonlyMap<string, T>> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    const found = new Map<string, T>();
    for (const name of await readdir(this.#dir)) {
      const document = name.endsWith(".json") ? await readDocument<T>(join(this.#dir, name)) : undefined;
      if (document === undefined) await rm(join(this.#dir, name), { recursive: true, force: true });
      else found.set(name.slice(0, -".json".length), document);
    }
    return found;
  }

  async put(key: string, document: T): Promise<void> {
    await writeDurably(join(this.#dir, `${key}.json`), JSON.stringify(document));
  }

  async delete(key: string): Promise<void> {
    await rm(join(this.#dir, `${key}.json`), { force: true });
  }
}
