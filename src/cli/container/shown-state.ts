/** A container as `state` and `list` show it: the OCI state with root, creation and owner. */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Container } from "../../core/library/public.ts";

export interface ShownState {
  readonly ociVersion: string;
  readonly id: string;
  /** 0 when stopped. */
  readonly pid: number;
  readonly status: string;
  readonly bundle: string;
  readonly rootfs: string;
  /** RFC 3339. */
  readonly created: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly owner: string;
}

export async function shownState(root: string, container: Container): Promise<ShownState> {
  const [oci, saved] = [await container.ociState(), container.state()];
  return {
    ociVersion: oci.ociVersion,
    id: oci.id,
    pid: oci.pid ?? 0,
    status: oci.status,
    bundle: oci.bundle,
    rootfs: saved.config.rootfs,
    created: saved.created,
    ...(Object.keys(oci.annotations).length === 0 ? {} : { annotations: oci.annotations }),
    owner: ownerOf(join(root, container.id)),
  };
}

function ownerOf(directory: string): string {
  const { uid } = statSync(directory);
  const name = readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .map((line) => line.split(":"))
    .find((fields) => fields[2] === String(uid))?.[0];
  return name ?? `#${uid}`;
}
