/** What an image holds, as a mount for a container. */
import { fstatSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { RuntimeError } from "../lib/errors.ts";
import { addon } from "../native/addon.ts";
import { type ImageTreeInput, planImageTree } from "./rootfs/overlay-plan.ts";
import type { ImageLayers, ImageTree } from "./runtime.ts";

type RunStep = ReturnType<typeof planImageTree>;
const unresolvable: ReadonlySet<unknown> = new Set(["ENOENT", "ENOTDIR", "ELOOP", "ENAMETOOLONG"]);

/** `run` carries a plan out and gives its descriptors. */
export async function openImageTree(
  { lowers, spare }: ImageLayers,
  where: Omit<ImageTreeInput, "lowers">,
  run: (step: RunStep) => Promise<readonly number[]>,
): Promise<ImageTree> {
  if (lowers.length === 1) await mkdir(spare, { recursive: true, mode: 0o755 });
  const step = planImageTree({ ...where, lowers: lowers.length === 1 ? [...lowers, spare] : lowers });
  const [fd] = await run(step).catch((error: unknown) => {
    throw explain(error, where.path);
  });
  if (fd === undefined) throw new RuntimeError("internal", "the shim sent no tree of the image");
  const tree = new HostImageTree(fd);
  const stats = fstatSync(fd);
  if (stats.isDirectory() || stats.isFile()) return tree;
  await tree[Symbol.asyncDispose]();
  throw new RuntimeError("invalid_argument", `${JSON.stringify(where.path)} in the image is neither a file nor a directory`);
}

class HostImageTree implements ImageTree {
  readonly fd: number;
  #closed = false;

  constructor(fd: number) {
    this.fd = fd;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    addon.close(this.fd);
  }
}

function explain(error: unknown, path: string): unknown {
  const { opName, errnoName } = error instanceof RuntimeError ? error.fields : {};
  if (opName !== "open-tree" || !unresolvable.has(errnoName)) return error;
  const reason =
    errnoName === "ENOENT" || errnoName === "ENOTDIR" ? "does not exist in the image" : "in the image cannot be resolved";
  return new RuntimeError("invalid_argument", `${JSON.stringify(path)} ${reason}`, { path }, error);
}
