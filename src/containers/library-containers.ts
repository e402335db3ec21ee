/**
 * The library's containers below the daemon's state directory. Their state.json files are the truth: nothing is remembered here but the
 * connections of those who are attached, so that containers of the command line, and of a daemon before this one, are the same as our own.
 */
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Container } from "../core/library/public.ts";
import type { ContainerEntry } from "../gen/caisson/v1/container.ts";
import { errnoName, messageOf } from "../lib/errors.ts";

interface Shared {
  readonly container: Container;
  users: number;
}

export class LibraryContainers {
  /** Where states lie, 0700. */
  readonly stateDir: string;
  readonly #attached = new Map<string, Shared>();

  constructor(stateDir: string) {
    this.stateDir = stateDir;
    mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  }

  /** A connection of the caller's own, which it disposes of. @throws RuntimeError not_found, invalid_argument for a bad id. */
  async load(id: string): Promise<Container> {
    return await Container.load(this.stateDir, id);
  }

  /** One for all who are attached to the same container: they share its input. */
  async share(id: string): Promise<Disposable & { readonly container: Container }> {
    const loaded = await this.load(id);
    const key = loaded.state().caisson.shim_id;
    const shared = this.#attached.get(key) ?? { container: loaded, users: 0 };
    if (shared.container !== loaded) loaded[Symbol.dispose]();
    this.#attached.set(key, shared);
    shared.users++;
    return {
      container: shared.container,
      [Symbol.dispose]: () => {
        shared.users--;
        if (shared.users > 0) return;
        this.#attached.delete(key);
        shared.container[Symbol.dispose]();
      },
    };
  }

  ids(): readonly string[] {
    return readdirSync(this.stateDir, { withFileTypes: true })
      .flatMap((entry) => (entry.isDirectory() ? [entry.name] : []))
      .toSorted();
  }

  /** One that is just being taken away is not there; one that cannot be read is there with the reason. */
  async list(): Promise<readonly ContainerEntry[]> {
    const entries = await Promise.all(this.ids().map((id) => this.#entry(id)));
    return entries.filter((entry) => entry !== undefined);
  }

  async #entry(id: string): Promise<ContainerEntry | undefined> {
    const nothing = { id, status: "", pid: 0n, created: "", bundle: "", annotations: {}, problem: "" };
    try {
      using container = await this.load(id);
      const [oci, { created }] = [await container.ociState(), container.state()];
      const { status, bundle, annotations, pid = 0 } = oci;
      return { ...nothing, status, pid: BigInt(pid), created, bundle, annotations: { ...annotations } };
    } catch (error) {
      const message = messageOf(error);
      return message === "container does not exist" ? undefined : { ...nothing, problem: message };
    }
  }

  /**
   * What these containers, and mounts of this machine, say of the directories that they use: whoever looks for a directory's name here knows
   * whether it may go. @throws when that cannot be told.
   */
  mentions(): string {
    return [readFileSync("/proc/self/mountinfo", "utf8"), ...this.ids().map((id) => stateText(join(this.stateDir, id)))].join(
      "\n",
    );
  }
}

function stateText(directory: string): string {
  try {
    return readFileSync(join(directory, "state.json"), "utf8");
  } catch (error) {
    if (errnoName(error) === "ENOENT" || errnoName(error) === "ENOTDIR") return "";
    throw error;
  }
}
