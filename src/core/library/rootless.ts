/** What an ordinary user's containers are: everything happens inside a user namespace of that user's own, with what the kernel lets it map. */
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";
import { runHostProgram } from "../../native/host-program.ts";
import type { OciIdMapping } from "../oci.ts";
import { parseMountOptions } from "../rootfs/mount-options.ts";
import type { Config } from "./config.ts";
import { mountWords, namespaceOf } from "./validate.ts";

/** An ordinary user's ids. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
}

/** undefined: root, who needs none of this. */
export function ordinaryUser(): Caller | undefined {
  const uid = process.geteuid?.() ?? 0;
  return uid === 0 ? undefined : { uid, gid: process.getegid?.() ?? 0 };
}

const mostMapperBytes = 4096;
const mapperMs = 10_000;
/** Where Debian and others have the two programs, besides PATH. */
const usualDirectories = ["/usr/bin", "/usr/local/bin", "/bin"];

/** @throws RuntimeError for what only root can have. */
export function refuseBeyondUser(config: Config, caller: Caller): void {
  const user = namespaceOf(config, "user");
  if (user === undefined)
    throw refusal(caller, "a container needs a user namespace: add one of type user, with uidMappings and gidMappings");
  const only: Readonly<Record<string, boolean>> = {
    netDevices: Object.keys(config.netDevices ?? {}).length > 0,
    intelRdt: config.intelRdt !== undefined,
    timeOffsets: config.timeOffsets !== undefined,
    "cgroups.systemd": config.cgroups?.systemd === true,
    idmapRoot: config.idmapRoot === true,
    "id-mapped mounts": (config.mounts ?? []).some(isIdMapped),
  };
  const found = Object.entries(only).find(([, asked]) => asked)?.[0];
  if (found !== undefined) throw refusal(caller, `${found} can be had by root only`);
  const { uidMappings = [], gidMappings = [] } = config;
  if (user.path !== undefined) return;
  if (!maps(uidMappings, 0) || !maps(gidMappings, 0)) throw refusal(caller, "uidMappings and gidMappings must map id 0");
  for (const mount of config.mounts ?? []) {
    for (const word of parseMountOptions(mountWords(mount)).data) {
      const [, key, id] = /^(uid|gid)=(\d+)$/.exec(word) ?? [];
      if (key !== undefined && !maps(key === "uid" ? uidMappings : gidMappings, Number(id)))
        throw refusal(caller, `mount ${mount.destination} has the option ${word}, and ${id} is not mapped`);
    }
  }
}

/** Groups can be set only where newgidmap has vouched for the mapping; ids only where they are mapped. */
export function refuseUnmappedUser(
  config: Config,
  user: { readonly uid: number; readonly gid: number; readonly additionalGids?: readonly number[] | undefined },
  caller: Caller,
): void {
  const { uidMappings = [], gidMappings = [] } = config;
  if (namespaceOf(config, "user")?.path !== undefined) return;
  const { additionalGids = [] } = user;
  if (additionalGids.length > 0 && isOwn(gidMappings, caller.gid))
    throw refusal(caller, "additional groups need more than its own group in gidMappings (see /etc/subgid)");
  if (!maps(uidMappings, user.uid)) throw refusal(caller, `user ${user.uid} is not in uidMappings`);
  const gid = [user.gid, ...additionalGids].find((id) => !maps(gidMappings, id));
  if (gid !== undefined) throw refusal(caller, `group ${gid} is not in gidMappings`);
}

/** @throws RuntimeError unimplemented for anybody but root: CRIU looks into processes by means that the kernel gives to root. */
export function refuseCriu(caller: Caller | undefined): void {
  if (caller === undefined) return;
  throw new RuntimeError("unimplemented", `user ${caller.uid} is not root: only root can checkpoint and restore containers`);
}

/** Whether the kernel lets the user write these maps without help (user_namespaces(7)): each maps its own id and no other. */
export function needsMapper({ uidMappings = [], gidMappings = [] }: Config, caller: Caller): boolean {
  return !isOwn(uidMappings, caller.uid) || !isOwn(gidMappings, caller.gid);
}

/** Before anything is made. @throws RuntimeError failed_precondition when newuidmap or newgidmap is missing. */
export function findMappers(caller: Caller): { readonly uid: string; readonly gid: string } {
  return { uid: findProgram("newuidmap", caller), gid: findProgram("newgidmap", caller) };
}

/** @throws RuntimeError with the program's own words when /etc/subuid or /etc/subgid does not allow the mapping. */
export async function writeMaps(config: Config, pid: number, caller: Caller): Promise<void> {
  const mappers = findMappers(caller);
  await runMapper(mappers.uid, pid, config.uidMappings ?? [], caller);
  await runMapper(mappers.gid, pid, config.gidMappings ?? [], caller);
}

async function runMapper(path: string, pid: number, mappings: readonly OciIdMapping[], caller: Caller): Promise<void> {
  const numbers = mappings.flatMap(({ containerID, hostID, size }) => [containerID, hostID, size].map(String));
  const { exit, stderr } = await runHostProgram(
    {
      path,
      argv: [path, String(pid), ...numbers],
      env: {},
      stdin: new Uint8Array(),
      maxStdoutBytes: mostMapperBytes,
      maxStderrBytes: mostMapperBytes,
      lock: null,
    },
    AbortSignal.timeout(mapperMs),
  );
  if (exit.code === 0) return;
  const said = stderr.toString("utf8").trim() || `it ended with code ${exit.code}`;
  const file = path.endsWith("newuidmap") ? "/etc/subuid" : "/etc/subgid";
  throw new RuntimeError(
    "failed_precondition",
    `${path} does not map ${numbers.join(" ")} for user ${caller.uid}: ${said} (see ${file})`,
  );
}

function findProgram(name: string, caller: Caller): string {
  for (const directory of [...(process.env.PATH ?? "").split(delimiter), ...usualDirectories]) {
    const path = join(directory, name);
    if (directory.startsWith("/") && isExecutable(path)) return path;
  }
  throw new RuntimeError(
    "failed_precondition",
    `user ${caller.uid} can map only itself without ${name}: install it (Debian: uidmap), or map 0 to ${caller.uid} alone`,
  );
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function isIdMapped(mount: NonNullable<Config["mounts"]>[number]): boolean {
  return (mount.uidMappings?.length ?? 0) > 0 || parseMountOptions(mountWords(mount)).idmap !== undefined;
}

function isOwn(mappings: readonly OciIdMapping[], id: number): boolean {
  return mappings.length === 1 && mappings[0]?.size === 1 && mappings[0].hostID === id;
}

function maps(mappings: readonly OciIdMapping[], id: number): boolean {
  return mappings.some(({ containerID, size }) => id >= containerID && id < containerID + size);
}

function refusal(caller: Caller, what: string): RuntimeError {
  return new RuntimeError("invalid_argument", `user ${caller.uid} is not root: ${what}`);
}
