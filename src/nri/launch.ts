/** Plugins that are installed on the node: started by us, connected by descriptor 3. */
import { constants } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { Socket } from "node:net";
import { join } from "node:path";
import { errnoName, messageOf, RuntimeError } from "../lib/errors.ts";
import { addon } from "../native/addon.ts";
import { fullName, type PluginName, parseFileName } from "./plugin-name.ts";

export interface InstalledPlugin {
  readonly name: PluginName;
  readonly path: string;
  /** What its file in the configuration directory says. */
  readonly config: string;
}

/** Executable files of `pluginDir`. A name or file that is wrong is told to `onProblem` and left out. */
export async function installedPlugins(
  pluginDir: string,
  configDir: string,
  onProblem: (sentence: string) => void,
): Promise<readonly InstalledPlugin[]> {
  const found: InstalledPlugin[] = [];
  for (const file of (await entriesOf(pluginDir)).toSorted()) {
    const path = join(pluginDir, file);
    try {
      const { mode, uid, isFile } = await describe(path);
      if (!isFile || (mode & 0o111) === 0) continue;
      // It runs with all our rights.
      if (uid !== 0 || (mode & 0o022) !== 0) {
        throw new RuntimeError("failed_precondition", "it must belong to root and not be writable by others");
      }
      const name = parseFileName(file);
      found.push({ name, path, config: await configOf(configDir, name) });
    } catch (error) {
      onProblem(`NRI plugin ${path} is not started: ${messageOf(error)}`);
    }
  }
  return found;
}

async function describe(path: string): Promise<{ mode: number; uid: number; isFile: boolean }> {
  const { mode, uid } = await stat(path);
  return { mode, uid, isFile: (mode & constants.S_IFMT) === constants.S_IFREG };
}

async function entriesOf(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return [];
    throw error;
  }
}

/** INDEX-NAME.conf, else NAME.conf, else nothing. */
async function configOf(directory: string, name: PluginName): Promise<string> {
  for (const file of [`${fullName(name)}.conf`, `${name.base}.conf`]) {
    try {
      return await readFile(join(directory, file), "utf8");
    } catch (error) {
      if (errnoName(error) !== "ENOENT") throw error;
    }
  }
  return "";
}

export interface LaunchedPlugin {
  readonly socket: Socket;
  /** Safe to call again. */
  kill(): void;
}

const sigkill = 9;

/** Its end is its connection's end; it dies with the daemon. */
export function launchPlugin({ name, path }: InstalledPlugin): LaunchedPlugin {
  const [ours, theirs] = addon.streamPair();
  let spawned: ReturnType<typeof addon.spawn>;
  try {
    spawned = addon.spawn({
      path,
      imageFd: null,
      argv: [path],
      env: [
        `NRI_PLUGIN_NAME=${name.base}`,
        `NRI_PLUGIN_IDX=${name.index}`,
        "NRI_PLUGIN_SOCKET=3",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
      ],
      cwd: null,
      fds: [null, null, null, theirs],
      parentDeathSignal: sigkill,
      newSession: true,
    });
  } catch (error) {
    addon.close(ours);
    throw error;
  } finally {
    addon.close(theirs);
  }
  const { pidfd, pid } = spawned;
  let ended = false;
  const kill = (): void => {
    if (ended) return;
    try {
      addon.killGroup(pid, sigkill);
    } catch {
      // It has just ended by itself.
    }
  };
  addon
    .waitChild(pidfd, true)
    .catch(() => {})
    .finally(() => {
      ended = true;
      addon.close(pidfd);
    });
  return { socket: new Socket({ fd: ours }), kill };
}
