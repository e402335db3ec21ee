/** Who a process is, looked up in the container's own files. A string of digits is an id, never a name (CVE-2016-3697). */
import { RuntimeError } from "../../lib/errors.ts";
import { parseGroup, parsePasswd } from "../process/user-database.ts";
import type { Rootfs } from "../runtime.ts";
import type { User } from "./process-spec.ts";
import type { ProcessUser } from "./translate.ts";

const highestId = 0x7fff_ffff;
const longestFileBytes = 1 << 20;

export async function resolveUser(user: User | undefined, rootfs: Pick<Rootfs, "readFile">): Promise<ProcessUser> {
  if (user === undefined) return { uid: 0, gid: 0, additionalGids: [] };
  if (typeof user !== "string") {
    const groups = user.additionalGids ?? [];
    return { uid: checked(user.uid), gid: checked(user.gid), additionalGids: groups.map(checked) };
  }
  const [name = "", group] = user.split(":");
  const [passwd, groups] = await Promise.all([
    rootfs.readFile("/etc/passwd", longestFileBytes).then(parsePasswd),
    rootfs.readFile("/etc/group", longestFileBytes).then(parseGroup),
  ]);
  const id = numeric(name);
  const entry = passwd.find((candidate) => (id === undefined ? candidate.name === name : candidate.uid === id));
  if (entry === undefined && id === undefined) throw unknown("user", name, "passwd");
  const memberOf = entry === undefined ? [] : groups.filter(({ members }) => members.includes(entry.name)).map(({ gid }) => gid);
  const identity = { uid: id ?? entry?.uid ?? 0, gid: entry?.gid ?? 0, additionalGids: memberOf };
  if (group === undefined || group === "") return identity;
  const gid = numeric(group) ?? groups.find((candidate) => candidate.name === group)?.gid;
  if (gid === undefined) throw unknown("group", group, "group");
  return { ...identity, gid };
}

function numeric(text: string): number | undefined {
  return /^[0-9]+$/.test(text) ? checked(Number(text)) : undefined;
}

function checked(id: number): number {
  if (Number.isInteger(id) && id >= 0 && id <= highestId) return id;
  throw new RuntimeError("invalid_argument", `id ${id} is outside of 0 to ${highestId}`);
}

function unknown(what: string, name: string, file: string): RuntimeError {
  return new RuntimeError(
    "invalid_argument",
    `unable to find ${what} ${JSON.stringify(name)}: no matching entry in /etc/${file} of the container`,
  );
}
