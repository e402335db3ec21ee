/** Runs caisson-unpack as the daemon does, on a scratch directory with a decoy beside it. */
import { spawnSync } from "node:child_process";
import {
  closeSync,
  constants,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** CAISSON_UNPACK: another build, with sanitizers. */
export const helperPath = process.env.CAISSON_UNPACK ?? join(import.meta.dirname, "../../build/native/caisson-unpack");

export interface UnpackResult {
  readonly ok: boolean;
  readonly kind?: string;
  readonly message?: string;
  readonly blobHex?: string;
  readonly tarHex?: string;
  readonly entries?: number;
  readonly inodes?: number;
  readonly diskBytes?: number;
  readonly strippedXattrs?: number;
  readonly pending?: number;
}

export class UnpackRun implements Disposable {
  readonly base = mkdtempSync(join(tmpdir(), "caisson-unpack-"));
  /** Outside of the layer: must never change. */
  readonly decoy = join(this.base, "decoy");
  #layers = 0;

  constructor() {
    mkdirSync(this.decoy);
    writeFileSync(join(this.decoy, "file"), "precious");
  }

  /** Makes a layer directory with what apply and, where it has to, settle put there. `lowers`: topmost first. */
  layer(blob: Uint8Array, args: readonly string[] = [], lowers: readonly string[] = []): { dir: string; result: UnpackResult } {
    const dir = join(this.base, `layer${this.#layers++}`);
    mkdirSync(dir, { mode: 0o755 });
    const pending = `${dir}.pending`;
    writeFileSync(pending, "");
    const result = this.run(["apply", ...args], blob, [dir], pending);
    if (!result.ok || result.pending === 0) return { dir, result };
    const settled = this.run(["settle", `lowers=${lowers.length}`], pending, [dir, ...lowers]);
    return { dir, result: settled.ok ? result : settled };
  }

  /** Calls that caisson-unpack is to find missing (native/common/kernel.h). */
  deny = "";

  /** One run. `input`: bytes, or the path of a file that becomes descriptor 0. */
  run(args: readonly string[], input: Uint8Array | string, dirs: readonly string[], extra?: string): UnpackResult {
    const opened = dirs.map((dir) => openSync(dir, constants.O_RDONLY | constants.O_DIRECTORY));
    if (extra !== undefined) opened.push(openSync(extra, constants.O_RDWR));
    const stdin = typeof input === "string" ? openSync(input, "r") : undefined;
    try {
      const child = spawnSync(helperPath, args, {
        env: { CAISSON_DENY_SYSCALLS: this.deny },
        stdio: [stdin ?? "pipe", "pipe", "inherit", ...opened],
        ...(stdin === undefined && { input: Buffer.from(input) }),
        maxBuffer: 1 << 20,
      });
      const text = child.stdout.toString("utf8");
      if (text === "") throw new Error(`no result, signal ${child.signal}, status ${child.status}`);
      return JSON.parse(text) as UnpackResult;
    } finally {
      for (const fd of [...opened, ...(stdin === undefined ? [] : [stdin])]) closeSync(fd);
    }
  }

  decoyUntouched(): boolean {
    return (
      readdirSync(this.decoy).join() === "file" &&
      readFileSync(join(this.decoy, "file"), "utf8") === "precious" &&
      (lstatSync(join(this.decoy, "file")).mode & 0o777) === 0o644
    );
  }

  [Symbol.dispose](): void {
    rmSync(this.base, { recursive: true, force: true });
  }
}

/** One line per name below `dir`: "path type mode uid:gid content-or-target", sorted; whiteouts as "path whiteout". */
export function listing(dir: string, below = ""): string[] {
  return readdirSync(join(dir, below))
    .sort()
    .flatMap((item) => {
      const name = join(below, item);
      const st = lstatSync(join(dir, name));
      // Not readdir's own recursion: it goes through symlinks.
      return [describe(join(dir, name), name), ...(st.isDirectory() ? listing(dir, name) : [])];
    });
}

function describe(path: string, name: string): string {
  const st = lstatSync(path);
  const owner = `${(st.mode & 0o7777).toString(8)} ${st.uid}:${st.gid}`;
  if (st.isCharacterDevice()) return st.rdev === 0 ? `${name} whiteout` : `${name} char ${owner} ${st.rdev}`;
  if (st.isSymbolicLink()) return `${name} -> ${readlinkSync(path)}`;
  if (st.isDirectory()) return `${name}/ ${owner}`;
  if (st.isFIFO()) return `${name} fifo ${owner}`;
  return `${name} file ${owner} ${st.size < 200 ? readFileSync(path, "utf8") : st.size}`;
}
