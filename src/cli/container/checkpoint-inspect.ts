/** Shows what a checkpoint holds: a directory of images, one of a CRI checkpoint, or an archive, which is unpacked by the rules of layers. */
import { existsSync, lstatSync, mkdtempSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
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
  const own = join(directory, "checkpoint");
  const isArchive = lstatSync(own, { throwIfNoEntry: false })?.isDirectory() === true;
  const facts = inspectCheckpoint(isArchive ? own : directory, directory);
  const about = isArchive ? aboutOf(join(directory, "config.dump")) : undefined;
  if (asJson) print(json({ ...about, ...facts }));
  else print(textOf(facts, about));
}

function aboutOf(path: string): Record<string, unknown> | undefined {
  if (!existsSync(path) || !lstatSync(path).isFile()) return undefined;
  try {
    const { id, name, rootfsImageName, rootfsImageRef, checkpointedTime } = JSON.parse(readFileSync(path, "utf8"));
    return { id, name, rootfsImageName, rootfsImageRef, checkpointedTime };
  } catch {
    throw new CommandError("config.dump is damaged");
  }
}

function textOf(facts: CheckpointFacts, about: Record<string, unknown> | undefined): string {
  const { processes, files, sockets, others, frozenUs } = facts;
  // Names in a checkpoint are anybody's: none may lead the terminal.
  const plain = (text: unknown) => JSON.stringify(String(text)).slice(1, -1);
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
    ...(sockets.length === 0 ? [] : ["", "sockets:", ...sockets.map((socket) => `  ${socket}`)]),
    ...(files.length === 0 ? [] : ["", "files:", ...files.slice(0, mostFiles).map(({ path }) => `  ${plain(path)}`)]),
    ...(files.length > mostFiles ? [`  and ${files.length - mostFiles} more`] : []),
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

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
