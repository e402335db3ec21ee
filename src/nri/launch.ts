/** Plugins that are installed on the node: started by us, connected by descriptor 3. */
import { constants } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { Socket } from "node:net";
import { basename, join } from "node:path";
import { errnoName, messageOf, RuntimeError } from "../lib/errors.ts";
import { addon } from "../native/addon.ts";
import type { ChildExit } from "../native/types.ts";
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
      const plugin = await inspectPlugin(path, configDir);
      if (plugin !== undefined) found.push(plugin);
    } catch (error) {
      onProblem(`NRI plugin ${path} is not started: ${messageOf(error)}`);
    }
  }
  return found;
}

/** As it is now; undefined: there is no program. Rejects for one that must not be started. */
export async function inspectPlugin(path: string, configDir: string): Promise<InstalledPlugin | undefined> {
  const about = await describe(path);
  if (about === undefined || !about.isFile || (about.mode & 0o111) === 0) return undefined;
  // It runs with all our rights.
  if (about.uid !== 0 || (about.mode & 0o022) !== 0) {
    throw new RuntimeError("failed_precondition", "it must belong to root and not be writable by others");
  }
  const name = parseFileName(basename(path));
  return { name, path, config: await configOf(configDir, name) };
}

async function describe(path: string): Promise<{ mode: number; uid: number; isFile: boolean } | undefined> {
  try {
    const { mode, uid } = await stat(path);
    return { mode, uid, isFile: (mode & constants.S_IFMT) === constants.S_IFREG };
  } catch (error) {
    if (errnoName(error) === "ENOENT") return undefined;
    throw error;
  }
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
  /** How its process has ended, when it has. */
  readonly ended: Promise<string>;
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
  let reaped = false;
  const kill = (): void => {
    if (reaped) return;
    try {
      addon.killGroup(pid, sigkill);
    } catch {
      // It has just ended by itself.
    }
  };
  const ended = addon
    .waitChild(pidfd, true)
    .then(describeEnd, messageOf)
    .finally(() => {
      reaped = true;
      addon.close(pidfd);
    });
  return { socket: new Socket({ fd: ours }), ended, kill };
}

const describeEnd = ({ code, signal }: ChildExit): string =>
  signal === 0 ? `it has ended with exit code ${code}` : `it was ended by signal ${signal}`;
