import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { errnoName } from "../lib/errors.ts";
import type { PodTranslation } from "./translation.ts";

/** The files that are mounted into every container of the pod; readable for any user in it. */
export async function writePodFiles(translation: PodTranslation): Promise<void> {
  const { files, spec } = translation;
  const write = async (name: string, content: string | Buffer): Promise<void> => {
    // Replaces nothing: the directory is new, and ours alone.
    await writeFile(join(spec.runDir, name), content, { mode: 0o644, flag: "wx" });
  };
  await Promise.all([
    write("hostname", files.hostname),
    write("hosts", files.hosts ?? (await nodeFile("/etc/hosts"))),
    write("resolv.conf", files.resolvConf ?? (await nodeFile("/etc/resolv.conf"))),
  ]);
}

async function nodeFile(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return Buffer.alloc(0);
    throw error;
  }
}
