/** Shows what a checkpoint holds: a directory of images, one of a CRI checkpoint of a container or a pod, or an archive, which is unpacked by the rules of layers. */
import { existsSync, lstatSync, mkdtempSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { type CheckpointFacts, inspectCheckpoint } from "../../core/criu/inspect.ts";
import { applyChanges } from "../../image/changes.ts";
import { Unpacker } from "../../image/unpacker.ts";
import { addon } from "../../native/addon.ts";
import type { CommandContext } from "../command.ts";
import { CommandError } from "../command-error.ts";
import { json, table } from "../text.ts";

const limits = { maxLayerBytes: 2 ** 40, maxLayerEntries: 100_000, maxRatio: 1100 };
const unpackPath = join(import.meta.dirname, "../../../build/native/caisson-unpack");
const mostFiles = 20;

export async function showCheckpoint({ json: asJson, print }: CommandContext, path: string): Promise<number> {
  const kind = lstatSync(path, { throwIfNoEntry: false });
  if (kind === undefined) throw new CommandError(`${path} does not exist`);
  if (kind.isDirectory()) {
    show(path, asJson, print);
    return 0;
  }
  const directory = mkdtempSync(join(tmpdir(), "caisson-inspect-"));
  try {
    await applyChanges(
      new Unpacker(addon, unpackPath, limits),
      path,
      join(directory, "archive"),
      [],
      AbortSignal.timeout(600_000),
    );
    show(join(directory, "archive"), asJson, print);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
  return 0;
}

function show(directory: string, asJson: boolean, print: (text: string) => void): void {
  const pod = documentOf(join(directory, "pod.dump")) as Partial<PodDump> | undefined;
  if (pod === undefined) {
    const one = contentOf(directory);
    print(asJson ? json({ ...one.about, ...one.facts }) : textOf(one));
    return;
  }
  const parts = (pod.containers ?? []).filter(({ directory: name }) => /^[\w][\w.-]*$/.test(name));
  const containers = parts.map((part) => ({ name: part.name, ...contentOf(join(directory, part.directory)) }));
  const volumes = (pod.volumes ?? []).map(({ name }) => String(name));
  if (asJson) {
    print(json({ pod: pod.id, volumes, containers: containers.map(({ name, about, facts }) => ({ name, ...about, ...facts })) }));
    return;
  }
  print(`pod ${plain(pod.id)}${volumes.length === 0 ? "" : `, with volumes ${volumes.map(plain).join(", ")}`}`);
  for (const one of containers) print(`\n${textOf(one)}`);
}

interface PodDump {
  readonly id: string;
  readonly containers: readonly { readonly name: string; readonly directory: string }[];
  readonly volumes: readonly { readonly name: string }[];
}

interface Content {
  readonly about: Record<string, unknown> | undefined;
  readonly facts: CheckpointFacts;
}

/** Of images alone, or of the members of a CRI checkpoint. */
function contentOf(directory: string): Content {
  const own = join(directory, "checkpoint");
  const isArchive = lstatSync(own, { throwIfNoEntry: false })?.isDirectory() === true;
  const facts = inspectCheckpoint(isArchive ? own : directory, directory);
  return { about: isArchive ? aboutOf(join(directory, "config.dump")) : undefined, facts };
}

// Names in a checkpoint are anybody's: none may lead the terminal.
function plain(text: unknown): string {
  return JSON.stringify(String(text)).slice(1, -1);
}

function aboutOf(path: string): Record<string, unknown> | undefined {
  const about = documentOf(path);
  if (about === undefined) return undefined;
  const { id, name, rootfsImageName, rootfsImageRef, checkpointedTime } = about;
  return { id, name, rootfsImageName, rootfsImageRef, checkpointedTime };
}

function documentOf(path: string): Record<string, unknown> | undefined {
  if (!existsSync(path) || !lstatSync(path).isFile()) return undefined;
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  } catch {
    throw new CommandError(`${basename(path)} is damaged`);
  }
}

function textOf({ facts, about }: Content): string {
  const { processes, files, sockets, mounts, others, frozenUs } = facts;
  return [
    ...(about === undefined
      ? []
      : [
          `container ${plain(about.name)} (${plain(about.id)}) of ${plain(about.rootfsImageName)}, ${plain(about.checkpointedTime)}`,
        ]),
    `${mebibytes(facts.bytes)} of images, ${mebibytes(facts.memoryBytes)} of them memory`,
    ...(frozenUs === undefined ? [] : [`frozen by CRIU for ${(frozenUs / 1000).toFixed(1)} ms`]),
    "",
    table(
      ["PID", "PARENT", "THREADS", "NAME"],
      processes.map(({ pid, parent, threads, name }) => [String(pid), String(parent), String(threads), plain(name)]),
    ),
    ...(sockets.length === 0 ? [] : ["", "sockets:", ...sockets.map((socket) => `  ${plain(socket)}`)]),
    ...(files.length === 0 ? [] : ["", "files:", ...files.slice(0, mostFiles).map(fileText)]),
    ...(files.length > mostFiles ? [`  and ${files.length - mostFiles} more`] : []),
    ...(mounts.length === 0
      ? []
      : [
          "",
          "mounts:",
          ...mounts.map(({ path, source, outside }) => `  ${plain(path)} ${outside ? "from outside" : plain(source)}`),
        ]),
    ...(Object.keys(others).length === 0
      ? []
      : [
          "",
          `besides: ${Object.entries(others)
            .map(([kind, count]) => `${count} ${kind}`)
            .join(", ")}`,
        ]),
  ].join("\n");
}

function fileText({ path, bytes }: CheckpointFacts["files"][number]): string {
  return `  ${plain(path)}${bytes === undefined ? "" : ` (${bytes} bytes)`}`;
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
