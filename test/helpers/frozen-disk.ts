import { execFileSync } from "node:child_process";
import { closeSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A file system of its own that can be frozen: who writes to it then waits in the kernel, and no signal reaches it. */
export class FrozenDisk implements Disposable {
  readonly #scratch = mkdtempSync(join(tmpdir(), "caisson-disk-"));
  readonly path = join(this.#scratch, "mnt");
  #frozen = false;

  constructor() {
    const image = join(this.#scratch, "image");
    const fd = openSync(image, "w");
    ftruncateSync(fd, 8 << 20);
    closeSync(fd);
    mkdirSync(this.path);
    execFileSync("mkfs.ext4", ["-q", "-F", "-O", "^has_journal", image]);
    execFileSync("mount", ["-o", "loop", image, this.path]);
  }

  freeze(): void {
    execFileSync("fsfreeze", ["-f", this.path]);
    this.#frozen = true;
  }

  thaw(): void {
    if (this.#frozen) execFileSync("fsfreeze", ["-u", this.path]);
    this.#frozen = false;
  }

  [Symbol.dispose](): void {
    this.thaw();
    execFileSync("umount", [this.path]);
    rmSync(this.#scratch, { recursive: true });
  }
}
