/**
 * Who the first process is. A string of digits is never looked up as a name (CVE-2016-3697, CVE-2026-46680), ids end at 2^31-1
 * (CVE-2024-40635), the primary group is one of the additional groups (CVE-2022-36109, CVE-2023-25173), and the image's files are read
 * through the rooted, bounded reader (CVE-2024-9676, CVE-2025-4437).
 */

import { type GroupEntry, type PasswdEntry, parseGroup, parsePasswd } from "../core/process/user-database.ts";
import type { Rootfs } from "../core/runtime.ts";
import { type LinuxContainerSecurityContext, SupplementalGroupsPolicy } from "../gen/cri/v1/api.ts";
import { invalid, quoted } from "./translate-check.ts";

export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  /** Sorted, without duplicates, primary group included. */
  readonly groups: readonly number[];
}

type Asked = Pick<LinuxContainerSecurityContext, "runAsUser" | "runAsUsername" | "runAsGroup" | "supplementalGroupsPolicy"> & {
  readonly supplementalGroups: readonly bigint[];
};

export const highestId = 0x7fff_ffff;
const longestDatabaseBytes = 1024 * 1024;

/** Number or name of a user or group. */
type Principal = { readonly id: number } | { readonly name: string };

function checkedId(what: string, id: bigint): number {
  if (id < 0n || id > BigInt(highestId)) throw invalid(`${what} ${id} is outside of 0 to ${highestId}`);
  return Number(id);
}

function parsePrincipal(what: string, text: string): Principal {
  if (/^[+-]?[0-9]+$/.test(text)) {
    if (!/^[0-9]{1,20}$/.test(text)) throw invalid(`${what} ${quoted(text)} is outside of 0 to ${highestId}`);
    return { id: checkedId(what, BigInt(text)) };
  }
  if (/[:\s\0]/.test(text)) throw invalid(`${what} ${quoted(text)} is not a valid name`);
  return { name: text };
}

/** What is asked for, before the image's files are read. */
function askedPrincipals(asked: Asked, imageUser: string): { user: Principal; group: Principal | undefined } {
  if (asked.runAsUser !== undefined && asked.runAsUsername !== "") {
    throw invalid("run_as_user and run_as_username must not both be set");
  }
  const hasUser = asked.runAsUser !== undefined || asked.runAsUsername !== "";
  if (asked.runAsGroup !== undefined && !hasUser) throw invalid("run_as_group is set without run_as_user or run_as_username");
  const group = asked.runAsGroup === undefined ? undefined : { id: checkedId("run_as_group", asked.runAsGroup.value) };
  if (asked.runAsUser !== undefined) return { user: { id: checkedId("run_as_user", asked.runAsUser.value) }, group };
  if (asked.runAsUsername !== "") return { user: parsePrincipal("run_as_username", asked.runAsUsername), group };
  const at = imageUser.indexOf(":");
  const userPart = at < 0 ? imageUser : imageUser.slice(0, at);
  const groupPart = at < 0 ? "" : imageUser.slice(at + 1);
  return {
    user: userPart === "" ? { id: 0 } : parsePrincipal("user of the image", userPart),
    group: groupPart === "" ? undefined : parsePrincipal("group of the image", groupPart),
  };
}

function findUser(passwd: readonly PasswdEntry[], user: Principal): PasswdEntry | undefined {
  if ("id" in user) return passwd.find((entry) => entry.uid === user.id);
  const entry = passwd.find((candidate) => candidate.name === user.name);
  if (entry === undefined)
    throw invalid(`unable to find user ${quoted(user.name)}: no matching entry in the image's /etc/passwd`);
  return entry;
}

function findGroup(groups: readonly GroupEntry[], group: Principal): number {
  if ("id" in group) return group.id;
  const entry = groups.find((candidate) => candidate.name === group.name);
  if (entry === undefined)
    throw invalid(`unable to find group ${quoted(group.name)}: no matching entry in the image's /etc/group`);
  return entry.gid;
}

/** What of it can be wrong without an image: for a sandbox, which has no process of its own. */
export function checkAskedUser(asked: Asked): void {
  askedPrincipals(asked, "");
  checkedGroups(asked);
}

function checkedGroups({ supplementalGroupsPolicy: policy, supplementalGroups }: Asked): number[] {
  if (policy !== SupplementalGroupsPolicy.Merge && policy !== SupplementalGroupsPolicy.Strict) {
    throw invalid(`unknown supplemental_groups_policy ${String(policy)}`);
  }
  return supplementalGroups.map((id) => checkedId("supplemental group", id));
}

export async function resolveUser(asked: Asked, imageUser: string, rootfs: Pick<Rootfs, "readFile">): Promise<ResolvedUser> {
  const { user, group } = askedPrincipals(asked, imageUser);
  const supplemental = checkedGroups(asked);

  const passwd = parsePasswd(await rootfs.readFile("/etc/passwd", longestDatabaseBytes));
  const groups = parseGroup(await rootfs.readFile("/etc/group", longestDatabaseBytes));
  const entry = findUser(passwd, user);
  const uid = "id" in user ? user.id : (entry?.uid ?? 0);
  const gid = group === undefined ? (entry?.gid ?? 0) : findGroup(groups, group);
  const ofImage =
    asked.supplementalGroupsPolicy === SupplementalGroupsPolicy.Strict || entry === undefined
      ? []
      : groups.filter((candidate) => candidate.members.includes(entry.name)).map((candidate) => candidate.gid);
  return { uid, gid, groups: [...new Set([gid, ...ofImage, ...supplemental])].sort((a, b) => a - b) };
}
