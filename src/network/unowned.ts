/** Addresses and attachments that belong to no pod. */
import { readdir, readFile } from "node:fs/promises";
import { isIP } from "node:net";
import { join } from "node:path";
import type { NetworkList } from "./network-list.ts";
import type { CachedAttachment } from "./result-cache.ts";

export interface UnownedObject {
  /** Path of the file that stands for it. */
  readonly path: string;
  /** A sentence's rest: what it is and what to do. */
  readonly text: string;
}

const hostLocalDirectory = "/var/lib/cni/networks";

export function unownedAttachments(
  attachments: readonly CachedAttachment[],
  isKnown: (podId: string) => boolean,
): readonly UnownedObject[] {
  return attachments
    .filter(({ attachment }) => !isKnown(attachment.containerId))
    .map(({ path, list, attachment }) => ({
      path,
      text: `pod ${attachment.containerId} is not known, but attached to network ${list.name}: restart caissond, which detaches it`,
    }));
}

/** Only those of the plugin host-local can be looked at, and only those of ids as ours: 64 hex digits. */
export async function unownedLeases(
  list: NetworkList,
  attachments: readonly CachedAttachment[],
  isKnown: (podId: string) => boolean,
): Promise<readonly UnownedObject[]> {
  const attached = new Set(attachments.map(({ attachment }) => attachment.containerId));
  const directories = list.plugins.map(({ raw }) => leaseDirectory(raw.ipam, list.name)).filter((path) => path !== undefined);
  const leases = (await Promise.all([...new Set(directories)].map(leasesIn))).flat();
  return leases
    .filter(({ holder }) => /^[0-9a-f]{64}$/.test(holder) && !attached.has(holder) && !isKnown(holder))
    .map(({ path, holder }) => ({
      path,
      text: `an address of network ${list.name} is kept for ${holder}, which is no pod of this daemon: unless it is another runtime's, delete the file`,
    }));
}

function leaseDirectory(ipam: unknown, networkName: string): string | undefined {
  const { type, dataDir } = (ipam ?? {}) as { readonly type?: unknown; readonly dataDir?: unknown };
  if (type !== "host-local") return undefined;
  return join(typeof dataDir === "string" && dataDir !== "" ? dataDir : hostLocalDirectory, networkName);
}

async function leasesIn(directory: string): Promise<readonly { readonly path: string; readonly holder: string }[]> {
  const names = (await readdir(directory).catch(() => [])).filter((name) => isIP(name.replaceAll("_", ":")) !== 0);
  return await Promise.all(
    names.map(async (name) => {
      const path = join(directory, name);
      const text = await readFile(path, "latin1").catch(() => "");
      return { path, holder: text.split(/\s/)[0] ?? "" };
    }),
  );
}
