/**
 * The streaming server's certificate, as long as its files say the same. Kubelets and cert-manager replace them while the daemon runs;
 * a look when a URL is given out is soon enough, as nobody comes without one, and needs no watcher that could miss a renamed directory.
 */
import { readFileSync, statSync } from "node:fs";
import type { SecureContextOptions } from "node:tls";

export interface TlsFiles {
  readonly cert: string;
  readonly key: string;
  readonly clientCa: string | undefined;
}

export function readTls({ cert, key, clientCa }: TlsFiles): SecureContextOptions {
  return {
    cert: readFileSync(cert),
    key: readFileSync(key),
    ...(clientCa === undefined ? {} : { ca: readFileSync(clientCa) }),
    minVersion: "TLSv1.2",
  };
}

/** Tells once for each state of the files whether they are others than before. */
export class TlsChanges {
  readonly #files: readonly string[];
  #seen: string;

  constructor({ cert, key, clientCa }: TlsFiles) {
    this.#files = [cert, key, ...(clientCa === undefined ? [] : [clientCa])];
    this.#seen = this.#state();
  }

  changed(): boolean {
    const state = this.#state();
    if (state === this.#seen) return false;
    this.#seen = state;
    return true;
  }

  #state(): string {
    const one = (file: string): string => {
      const stat = statSync(file, { bigint: true, throwIfNoEntry: false });
      return stat === undefined ? "none" : `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}:${stat.ctimeNs}`;
    };
    return this.#files.map(one).join(" ");
  }
}
