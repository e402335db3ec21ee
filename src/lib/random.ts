/** Random names. From the kernel at once: loading node:crypto takes a command longer than a container's start. */
import { closeSync, openSync, readSync } from "node:fs";

/** Two lower-case digits for each byte. */
export function randomHex(bytes: number): string {
  const fd = openSync("/dev/urandom", "r");
  try {
    const buffer = Buffer.alloc(bytes);
    // Up to 256 bytes come whole, whatever interrupts the call.
    if (readSync(fd, buffer) !== bytes) throw new Error("/dev/urandom gave too few bytes");
    return buffer.toString("hex");
  } finally {
    closeSync(fd);
  }
}
