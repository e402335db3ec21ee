/** Finds the pod network: the first valid list of the configuration directories, by file name. */
import { constants } from "node:fs";
import { open, readdir } from "node:fs/promises";
import { extname, join } from "node:path";
import { errnoName, messageOf, RuntimeError } from "../lib/errors.ts";
import { type NetworkList, type PluginConfig, parseNetworkList, parsePlugin, parseSinglePlugin } from "./network-list.ts";

export interface LoadedNetwork {
  readonly file: string;
  readonly list: NetworkList;
}

export interface LoadResult {
  readonly network: LoadedNetwork | undefined;
  /** One sentence for each file that was skipped. */
  readonly problems: readonly string[];
}

const largestFileBytes = 1024 * 1024;

async function readText(path: string): Promise<string> {
  // Without O_NONBLOCK a FIFO in the directory would hang the open.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stats = await file.stat();
    if (!stats.isFile()) throw new RuntimeError("invalid_argument", "not a regular file");
    if (stats.size > largestFileBytes) throw new RuntimeError("invalid_argument", `larger than ${largestFileBytes} bytes`);
    return await file.readFile("utf8");
  } finally {
    await file.close();
  }
}

/** Thrown for text that is no JSON: most often a file that is being written at this moment. */
class Unfinished extends Error {}

async function readJson(path: string): Promise<unknown> {
  const text = await readText(path);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Unfinished(`not valid JSON: ${messageOf(error)}`);
  }
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).sort();
  } catch (error) {
    if (errnoName(error) === "ENOENT" || errnoName(error) === "ENOTDIR") return [];
    throw error;
  }
}

async function extraPlugins(directory: string): Promise<PluginConfig[]> {
  const plugins: PluginConfig[] = [];
  for (const name of await namesIn(directory)) {
    if (!name.endsWith(".conf")) continue;
    const path = join(directory, name);
    plugins.push(parsePlugin(path, await readJson(path)));
  }
  return plugins;
}

async function loadFile(directory: string, path: string): Promise<NetworkList> {
  const json = await readJson(path);
  const isList = path.endsWith(".conflist") || (typeof json === "object" && json !== null && "plugins" in json);
  if (!isList) return parseSinglePlugin(path, json);
  return await parseNetworkList(path, json, (name) => extraPlugins(join(directory, name)));
}

/**
 * Files are tried in the order of their names, invalid ones are skipped. Exception: when the file of the network in use cannot be parsed
 * it is most likely being written, and the network in use stays (`current`).
 */
export async function loadNetwork(directories: readonly string[], current: LoadedNetwork | undefined): Promise<LoadResult> {
  const problems: string[] = [];
  for (const directory of directories) {
    let names: string[] = [];
    try {
      names = await namesIn(directory);
    } catch (error) {
      problems.push(`cannot read ${directory}: ${messageOf(error)}`);
    }
    for (const name of names) {
      if (![".conflist", ".conf", ".json"].includes(extname(name))) continue;
      const file = join(directory, name);
      try {
        return { network: { file, list: await loadFile(directory, file) }, problems };
      } catch (error) {
        if (errnoName(error) === "ENOENT") continue;
        problems.push(`${file} is skipped: ${messageOf(error)}`);
        if (error instanceof Unfinished && current?.file === file) return { network: current, problems };
      }
    }
  }
  return { network: undefined, problems };
}
