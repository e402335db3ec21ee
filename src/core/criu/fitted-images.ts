/** The images of a checkpoint as they fit where they are restored. The checkpoint itself may be read-only, and serve others at the same time. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path/posix";
import { addon } from "../../native/addon.ts";
import { noSlot } from "../plan-schema.ts";
import type { Shim } from "../shim/shim.ts";
import { withGivenNamespaces } from "./foreign-images.ts";
import { fittedSockets, type SocketPlace, socketFile } from "./saved-sockets.ts";

export interface FittedImages extends Disposable {
  readonly path: string;
}

const readOnly = 1;
const deadlineMs = 10_000;

/**
 * Their own directory where nothing has to change; else a view of it with what is different, which lies in `scratch`. Links would not do:
 * CRIU opens images also where the container's root is "/".
 */
export async function fitImages(
  shim: Shim,
  { imagesDirectory, sockets }: { readonly imagesDirectory: string; readonly sockets: SocketPlace },
  scratch: string,
): Promise<FittedImages> {
  const changed = new Map(withGivenNamespaces(imagesDirectory));
  const fitted = fittedSockets(imagesDirectory, sockets);
  if (fitted !== undefined) changed.set(socketFile, fitted);
  if (changed.size === 0) return { path: imagesDirectory, [Symbol.dispose]: () => {} };
  const remove = () => rmSync(scratch, { recursive: true, force: true });
  try {
    mkdirSync(scratch, { recursive: true, mode: 0o700 });
    for (const [name, content] of changed) writeFileSync(join(scratch, name), content, { mode: 0o600 });
    const lowers = [scratch, imagesDirectory];
    const { fds } = await shim.run({
      plan: [
        { op: "overlay", out: 0, lowers, upper: "", work: "", options: [], attrs: readOnly, idmap: noSlot },
        { op: "export", slot: 0 },
      ],
      cloneKinds: 0,
      deadlineMs,
      what: "a view of the checkpoint's images",
    });
    const view = {
      path: `/proc/self/fd/${fds[0]}`,
      [Symbol.dispose]: () => {
        for (const fd of fds) addon.close(fd);
        remove();
      },
    };
    return view;
  } catch (error) {
    remove();
    throw error;
  }
}
