/** A container's root as the daemon holds it between openRootfs and create. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { RuntimeError } from "../lib/errors.ts";
import { addon, isErrno } from "../native/addon.ts";
import { openFlag, resolveFlag } from "../native/constants.ts";
import type { Rootfs } from "./runtime.ts";

const inRoot = resolveFlag.inRoot | resolveFlag.noMagicLinks;

export class HostRootfs implements Rootfs {
  readonly fd: number;
  #closed = false;

  /** Takes the descriptor of a detached mount. */
  constructor(fd: number) {
    this.fd = fd;
  }

  async readFile(path: string, maxBytes: number): Promise<Buffer | undefined> {
    const handle = this.#find(path);
    if (handle === undefined) return undefined;
    try {
      const { size } = checkFile(handle, path, maxBytes);
      // The magic link reopens exactly what was checked: a FIFO or device put there meanwhile is never opened.
      return readBounded(`/proc/self/fd/${handle}`, path, Math.min(size, maxBytes), maxBytes);
    } finally {
      addon.close(handle);
    }
  }

  kindOf(path: string): "file" | "directory" | "other" | undefined {
    const handle = this.#find(path);
    if (handle === undefined) return undefined;
    try {
      const stats = fstatSync(handle);
      return stats.isFile() ? "file" : stats.isDirectory() ? "directory" : "other";
    } finally {
      addon.close(handle);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    addon.close(this.fd);
  }

  #find(path: string): number | undefined {
    try {
      return addon.openat2(this.fd, path, openFlag.path, 0, inRoot);
    } catch (error) {
      if (isErrno(error, "ENOENT", "ENOTDIR")) return undefined;
      // An image can hold link loops and over-long links: its own fault, not ours.
      if (isErrno(error, "ELOOP", "ENAMETOOLONG")) {
        throw new RuntimeError("invalid_argument", `${JSON.stringify(path)} in the image cannot be resolved`, { path }, error);
      }
      throw error;
    }
  }
}

/** Synchronous: a short read of what the page cache mostly has; a promise would make eight round trips through the thread pool. */
function readBounded(link: string, path: string, expectedBytes: number, maxBytes: number): Buffer {
  const file = openSync(link, "r");
  try {
    const content = Buffer.alloc(expectedBytes + 1);
    let length = 0;
    while (length < content.length) {
      const got = readSync(file, content, length, content.length - length, length);
      if (got === 0) break;
      length += got;
    }
    if (length > maxBytes) throw tooLarge(path, maxBytes);
    return content.subarray(0, length);
  } finally {
    closeSync(file);
  }
}

function checkFile(fd: number, path: string, maxBytes: number): { readonly size: number } {
  const stats = fstatSync(fd);
  if (!stats.isFile()) {
    throw new RuntimeError("invalid_argument", `${JSON.stringify(path)} in the image is not a regular file`, { path });
  }
  if (stats.size > maxBytes) throw tooLarge(path, maxBytes);
  return { size: stats.size };
}

function tooLarge(path: string, maxBytes: number): RuntimeError {
  return new RuntimeError("invalid_argument", `${JSON.stringify(path)} in the image has more than ${maxBytes} bytes`, { path });
}
