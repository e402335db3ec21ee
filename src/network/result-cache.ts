/**
 * What was attached and how, in a file per attachment. Written before ADD, so that an ADD which a dying daemon cut off can be undone,
 * and kept until every plugin's DEL has succeeded. DEL thus never depends on the configuration of the day. The form is cniCacheV1.
 */
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { errnoName, messageOf, RuntimeError } from "../lib/errors.ts";
import { type Attachment, ifName } from "./attachment.ts";
import { type JsonObject, type NetworkList, parseNetworkList, serialiseNetworkList } from "./network-list.ts";

export interface CachedAttachment {
  readonly path: string;
  readonly list: NetworkList;
  readonly attachment: Attachment;
  /** Absent: ADD has not come to its end. */
  readonly result: JsonObject | undefined;
}

interface CacheFile {
  readonly kind: "cniCacheV1";
  /** Tells our files from those of another runtime that keeps its own in the same directory. */
  readonly writer?: string;
  readonly containerId: string;
  readonly config: string;
  readonly ifName: string;
  readonly networkName: string;
  readonly netns: string;
  readonly cniArgs: readonly (readonly [string, string])[];
  readonly capabilityArgs: JsonObject;
  readonly result?: JsonObject;
}

const writer = "caisson";

export class ResultCache {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Survives a power loss, as the plugins' own state does. */
  async write(list: NetworkList, attachment: Attachment, result: JsonObject | undefined): Promise<CachedAttachment> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const path = join(this.#directory, `${list.name}-${attachment.containerId}-${ifName}`);
    const content: CacheFile = {
      kind: "cniCacheV1",
      writer,
      containerId: attachment.containerId,
      config: Buffer.from(serialiseNetworkList(list)).toString("base64"),
      ifName,
      networkName: list.name,
      netns: attachment.netns,
      cniArgs: attachment.args,
      capabilityArgs: attachment.capabilities,
      ...(result === undefined ? {} : { result }),
    };
    const partial = `${path}.partial`;
    {
      await using file = await open(partial, "w", 0o600);
      await file.writeFile(JSON.stringify(content));
      await file.sync();
    }
    await rename(partial, path);
    await this.#syncDirectory();
    return { path, list, attachment, result };
  }

  /** Every attachment of a pod, also to networks that are no longer configured. A damaged file is an error that names it. */
  async find(containerId: string): Promise<CachedAttachment[]> {
    const found: CachedAttachment[] = [];
    for (const name of await this.#names()) {
      if (name.endsWith(`-${containerId}-${ifName}`)) found.push(await this.#read(join(this.#directory, name)));
    }
    return found;
  }

  /** Every attachment that we have written down; damaged files are left out. */
  async all(): Promise<CachedAttachment[]> {
    const found: CachedAttachment[] = [];
    for (const name of await this.#names()) {
      const path = join(this.#directory, name);
      if (name.endsWith(`-${ifName}`) && (await isOurs(path))) found.push(await this.#read(path));
    }
    return found;
  }

  async forget(cached: CachedAttachment): Promise<void> {
    await rm(cached.path, { force: true });
    await rm(`${cached.path}.partial`, { force: true });
  }

  async #read(path: string): Promise<CachedAttachment> {
    try {
      const file = JSON.parse(await readFile(path, "utf8")) as CacheFile;
      if (file.kind !== "cniCacheV1") throw new Error("it is of another kind");
      const list = await parseNetworkList(path, JSON.parse(Buffer.from(file.config, "base64").toString("utf8")));
      const { containerId, netns, cniArgs: args, capabilityArgs: capabilities, result } = file;
      return { path, list, attachment: { containerId, netns, args, capabilities }, result };
    } catch (error) {
      throw new RuntimeError(
        "data_loss",
        `the record of a network attachment ${path} cannot be read (${messageOf(error)}): ` +
          "release the pod's address by hand and delete the file",
        { path },
        error,
      );
    }
  }

  async #names(): Promise<string[]> {
    try {
      return await readdir(this.#directory);
    } catch (error) {
      if (errnoName(error) === "ENOENT") return [];
      throw error;
    }
  }

  async #syncDirectory(): Promise<void> {
    await using directory = await open(this.#directory, "r");
    await directory.sync();
  }
}

async function isOurs(path: string): Promise<boolean> {
  try {
    return (JSON.parse(await readFile(path, "utf8")) as Partial<CacheFile>).writer === writer;
  } catch {
    return false;
  }
}
