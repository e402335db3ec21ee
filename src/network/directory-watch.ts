/** Tells when something in a directory changes, through inotify; the directory may come, go and be replaced. */
import { existsSync, type FSWatcher, statSync, watch } from "node:fs";
import { dirname } from "node:path";

const settleMs = 50;

interface Watched {
  readonly path: string;
  readonly identity: string;
  readonly watcher: FSWatcher;
}

const identityOf = (path: string): string => {
  const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
  return stats === undefined ? "" : `${stats.dev}:${stats.ino}`;
};

/** The directory, or the nearest one above it that exists. */
function nearest(path: string): string {
  let candidate = path;
  while (!existsSync(candidate) && candidate !== dirname(candidate)) candidate = dirname(candidate);
  return candidate;
}

export class DirectoryWatch {
  readonly #path: string;
  readonly #onChange: () => void;
  #watched: Watched | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  /** `onChange` is called once things have been quiet for a moment. */
  constructor(path: string, onChange: () => void) {
    this.#path = path;
    this.#onChange = onChange;
    this.#arm();
  }

  /** Notices what inotify does not tell: that something was mounted over the directory. Cheap: one or two stat calls. */
  verify(): void {
    if (this.#closed) return;
    const place = nearest(this.#path);
    if (this.#watched !== undefined && place === this.#watched.path && identityOf(place) === this.#watched.identity) return;
    this.#arm();
    this.#changed();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#watched?.watcher.close();
    this.#watched = undefined;
  }

  #arm(): void {
    this.#watched?.watcher.close();
    this.#watched = undefined;
    const path = nearest(this.#path);
    try {
      const watcher = watch(path, { persistent: false }, () => this.#changed());
      watcher.on("error", () => this.#changed());
      this.#watched = { path, identity: identityOf(path), watcher };
    } catch {
      // No inotify instance left, or the directory went away just now: verify() tries again.
    }
  }

  #changed(): void {
    if (this.#closed || this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#closed) return;
      const place = nearest(this.#path);
      if (place !== this.#watched?.path || identityOf(place) !== this.#watched.identity) this.#arm();
      this.#onChange();
    }, settleMs);
    this.#timer.unref();
  }
}
