/**
 * Checkpoint and restore by `caisson` and by runc, of the same bundle, with the same CRIU, in turn. Whole commands are timed, as a caller
 * waits for them. Needs root, and runc and CRIU in PATH.   node test/bench/checkpoint.ts [ROUNDS]
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ContainerCli } from "../helpers/container-cli.ts";
import { median } from "./pod-round.ts";

const rounds = Number(process.argv[2] ?? 5);
await using cli = new ContainerCli();
const { id, bundle } = cli.bundle(["sh", "-c", "x=$(busybox seq 200000); exec sleep 1000 < /dev/null > /dev/null 2>&1"]);
const state = join(cli.place.top, "runc");

type Verb = (...args: string[]) => Promise<void>;
const caisson: Verb = async (...args) => {
  const { code, err } = await cli.run(...args);
  if (code !== 0) throw new Error(`caisson ${args[0]}: ${err}`);
};
const runc: Verb = async (...args) => void execFileSync("runc", ["--root", state, ...args], { stdio: "ignore" });

async function round(verb: Verb): Promise<{ readonly checkpoint: number; readonly restore: number }> {
  const images = join(cli.place.top, "images");
  mkdirSync(images);
  const timed = async (...args: string[]): Promise<number> => {
    const since = performance.now();
    await verb(...args);
    return performance.now() - since;
  };
  await verb("run", "-d", "-b", bundle, id);
  const checkpoint = await timed("checkpoint", "--image-path", images, id);
  const restore = await timed("restore", "-d", "-b", bundle, "--image-path", images, id);
  await verb("delete", "-f", id);
  rmSync(images, { recursive: true });
  return { checkpoint, restore };
}

const times = { caisson: [], runc: [] } as Record<"caisson" | "runc", Awaited<ReturnType<typeof round>>[]>;
for (let count = 0; count < rounds; count++) {
  times.caisson.push(await round(caisson));
  times.runc.push(await round(runc));
}
for (const what of ["checkpoint", "restore"] as const) {
  const [ours, theirs] = [times.caisson, times.runc].map((all) => median(all.map((one) => one[what])));
  if (ours === undefined || theirs === undefined) continue;
  console.log(`${what}: caisson ${ours.toFixed(0)} ms, runc ${theirs.toFixed(0)} ms: ${(ours / theirs).toFixed(2)} times runc's`);
}
