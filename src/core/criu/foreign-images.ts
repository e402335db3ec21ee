/**
 * A checkpoint that another runtime has made: what a restore has to know beside CRIU's images, from these images themselves. They hold
 * more than ours, because CRIU did not work inside the container's namespaces.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path/posix";
import { WireType } from "@bufbuild/protobuf/wire";
import { Core, Inventory, MountEntry, NetworkNamespace, PidNamespace, PstreeEntry, type TaskIds } from "../../gen/criu/images.ts";
import { RuntimeError } from "../../lib/errors.ts";
import { decodeImage, encodeImage, readImage, rewriteMessage } from "./criu-images.ts";
import { type ExternalMount, notesFile, type RestoreNotes } from "./image-directory.ts";

/** CRIU's numbers, and what Node calls these machines. */
const machines: Readonly<Record<number, string>> = { 1: "x64", 3: "arm64" };

/** @throws RuntimeError failed_precondition, naming what is missing or cannot be given; data_loss. */
export function notesOfImages(directory: string, stdio: readonly string[]): RestoreNotes {
  const names = readdirSync(directory);
  const some = (kind: string) => names.filter((name) => new RegExp(`^${kind}-.*\\.img$`).test(name));
  const refuse = (why: string): never => {
    throw new RuntimeError("failed_precondition", `the checkpoint in ${directory} cannot be restored: ${why}`);
  };
  const [mountImage] = some("mountpoints");
  if (mountImage === undefined) refuse("it has no mountpoints-*.img, so no mount namespace of its own");
  if (some("userns").length > 0) refuse("its container has a user namespace (userns-*.img)");
  const [network] = some("netns").flatMap((name) => decodeImage(join(directory, name), NetworkNamespace));
  if (network !== undefined && network.extKey === undefined)
    refuse("its network is in the images (netns-*.img) and not named as external, as it is for a container of a pod");
  const [pid] = some("pidns").flatMap((name) => decodeImage(join(directory, name), PidNamespace));
  return {
    architecture: architectureOf(directory),
    terminal: stdio.every((name) => name.startsWith("/dev/pts/") || name === "/dev/console"),
    externals: some("mountpoints").flatMap((name) => externalsOf(join(directory, name))),
    ...(network?.extKey === undefined ? {} : { networkKey: network.extKey }),
    ...(pid?.extKey === undefined ? {} : { pidKey: pid.extKey }),
  };
}

function architectureOf(directory: string): string {
  const path = join(directory, "pstree.img");
  if (!existsSync(path)) throw new RuntimeError("failed_precondition", `the checkpoint in ${directory} lacks pstree.img`);
  const pid = decodeImage(path, PstreeEntry)[0]?.pid ?? 0;
  const machine = decodeImage(join(directory, `core-${pid}.img`), Core)[0]?.mtype ?? 0;
  return machines[machine] ?? `machine ${machine}`;
}

/** By the name that CRIU asks for; several masks may have one. */
function externalsOf(path: string): readonly ExternalMount[] {
  const found = new Map<string, ExternalMount>();
  for (const { extKey, extMount, root, mountpoint = "" } of decodeImage(path, MountEntry)) {
    const key = extKey ?? (extMount === true ? root : undefined);
    if (key !== undefined && !found.has(key)) found.set(key, { key, mountPoint: mountpoint.replace(/^\.?\/?/, "/") });
  }
  return [...found.values()];
}

/** Of the namespaces that a pod gives. */
const given = { netNsId: 6, ipcNsId: 7, utsNsId: 8, cgroupNsId: 11 } as const;

/**
 * Images by their names in which every process is in CRIU's own network, IPC, UTS and cgroup namespace, as in ours: a restore leaves these
 * alone then, and does not write into the pod's what the checkpoint has of them. Empty for our own images.
 */
export function withGivenNamespaces(directory: string): ReadonlyMap<string, Buffer> {
  if (existsSync(join(directory, notesFile))) return new Map();
  const own = decodeImage(join(directory, "inventory.img"), Inventory)[0]?.rootIds;
  if (own === undefined)
    throw new RuntimeError(
      "failed_precondition",
      `the checkpoint in ${directory} lacks root_ids, CRIU's namespaces, in inventory.img`,
    );
  const names = readdirSync(directory).filter((name) => /^ids-\d+\.img$/.test(name));
  return new Map(names.map((name) => [name, withIds(join(directory, name), own)]));
}

function withIds(path: string, own: TaskIds): Buffer {
  const fields = Object.entries(given) as [keyof typeof given, number][];
  const messages = readImage(path).map((message) =>
    rewriteMessage(message, new Set(Object.values(given)), (writer) => {
      for (const [name, number] of fields) {
        const id = own[name];
        if (id !== undefined) writer.tag(number, WireType.Varint).uint32(id);
      }
    }),
  );
  return encodeImage(path, messages);
}
