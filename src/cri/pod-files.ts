import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { errnoName } from "../lib/errors.ts";
import type { PodTranslation } from "./translation.ts";

/** The files that are mounted into every container of the pod; readable for any user in it. Synchronous as state-files.ts is. */
export function writePodFiles(translation: PodTranslation): void {
  const { files, spec } = translation;
  const write = (name: string, content: string | Buffer): void => {
    // Replaces nothing: the directory is new, and ours alone.
    writeFileSync(join(spec.runDir, name), content, { mode: 0o644, flag: "wx" });
  };
  write("hostname", files.hostname);
  write("hosts", files.hosts ?? nodeFile("/etc/hosts"));
  write("resolv.conf", files.resolvConf ?? nodeFile("/etc/resolv.conf"));
}

function nodeFile(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return Buffer.alloc(0);
    throw error;
  }
}
