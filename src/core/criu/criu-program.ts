/** The CRIU of this machine: found, asked for its version and for what the kernel lets it do. */
import { accessSync, constants, type Stats, statSync } from "node:fs";
import { join } from "node:path/posix";
import { RequestType, type Response } from "../../gen/criu/rpc.ts";
import { RuntimeError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import { CriuSession } from "./criu-session.ts";
import { knownVersion, rememberVersion } from "./criu-versions.ts";

/** major*10000 + minor*100 + sublevel, as everybody counts them. */
const leastVersion = 31_600;
const answerMs = 10_000;
const sigkill = 9;

export interface CriuProgram {
  readonly path: string;
  readonly version: number;
}

export type CriuFeature = "memTrack" | "lazyPages";
const featureText: Readonly<Record<CriuFeature, string>> = {
  memTrack: "memory tracking (mem_track), which a pre-dump needs",
  lazyPages: "lazy pages (userfaultfd)",
};

/**
 * Absent: looked up in PATH.
 * @throws RuntimeError failed_precondition when there is none, or one that is too old; the message names what was found.
 */
export async function findCriu(configured?: string): Promise<CriuProgram> {
  const path = configured ?? inPath();
  if (path === undefined) throw missing("criu was not found in PATH");
  let stat: Stats;
  try {
    accessSync(path, constants.X_OK);
    stat = statSync(path);
  } catch (error) {
    throw missing(`${path} cannot be executed`, error);
  }
  const seen = knownVersion(path, stat);
  if (seen !== undefined) return { path, version: seen };
  const program = { path, version: await versionOf(path) };
  if (program.version < leastVersion) {
    throw missing(
      `${path} is CRIU ${versionText(program.version)}; checkpoint and restore need ${versionText(leastVersion)} or newer`,
    );
  }
  rememberVersion(path, stat, program.version);
  return program;
}

/** @throws RuntimeError failed_precondition when this CRIU on this kernel lacks it. */
export async function needFeature({ path, version }: CriuProgram, feature: CriuFeature): Promise<void> {
  const asked = { memTrack: feature === "memTrack", lazyPages: feature === "lazyPages" };
  const { features } = await ask(path, { type: RequestType.FEATURE_CHECK, features: asked });
  if (features?.[feature] === true) return;
  throw new RuntimeError("failed_precondition", `CRIU ${versionText(version)} on this kernel lacks ${featureText[feature]}`, {
    feature,
    version,
  });
}

export function versionText(version: number): string {
  const sublevel = version % 100;
  return `${Math.floor(version / 10_000)}.${Math.floor(version / 100) % 100}${sublevel === 0 ? "" : `.${sublevel}`}`;
}

async function versionOf(path: string): Promise<number> {
  const { version } = await ask(path, { type: RequestType.VERSION });
  // 1.x and 2.x do not know the question.
  if (version?.majorNumber === undefined)
    throw missing(`${path} is older than CRIU 3.0; checkpoint and restore need ${versionText(leastVersion)} or newer`);
  const base = version.majorNumber * 10_000 + (version.minorNumber ?? 0) * 100;
  // What was built between two releases counts as the later one.
  return version.gitid === undefined ? base + (version.sublevel ?? 0) : base + 100;
}

async function ask(path: string, request: Parameters<CriuSession["call"]>[0]["request"]): Promise<Response> {
  using session = new CriuSession();
  const spawned = addon.spawn({
    path,
    imageFd: null,
    argv: ["criu", "swrk", "3"],
    env: [`PATH=${process.env.PATH ?? ""}`],
    cwd: null,
    fds: [null, null, null, session.otherEnd],
    parentDeathSignal: sigkill,
    newSession: true,
  });
  session.given();
  const ended = addon.waitChild(spawned.pidfd);
  const late = setTimeout(() => {
    session.abandon(new RuntimeError("deadline_exceeded", `${path} does not answer`, { path }));
    addon.pidfdSignal(spawned.pidfd, sigkill);
  }, answerMs);
  try {
    return await session.call({ request });
  } finally {
    clearTimeout(late);
    session[Symbol.dispose]();
    await ended;
    addon.close(spawned.pidfd);
  }
}

function inPath(): string | undefined {
  return (process.env.PATH ?? "")
    .split(":")
    .filter((directory) => directory.startsWith("/"))
    .map((directory) => join(directory, "criu"))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

function missing(reason: string, cause?: unknown): RuntimeError {
  return new RuntimeError("failed_precondition", `checkpoint and restore are not possible: ${reason}`, {}, cause);
}
