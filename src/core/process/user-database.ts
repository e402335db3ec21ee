/** Parsers of passwd(5) and group(5) as images have them: lines that make no sense are skipped. */

export interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

export interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

function parseId(text: string | undefined): number | undefined {
  if (text === undefined || !/^[0-9]{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  return id <= 0x7fff_ffff ? id : undefined;
}

function* fieldsOf(content: Buffer | undefined): Generator<string[]> {
  if (content === undefined) return;
  for (const line of content.toString("utf8").split("\n")) {
    const fields = line.split(":");
    if (fields[0] !== "" && !line.startsWith("#")) yield fields;
  }
}

export function parsePasswd(content: Buffer | undefined): PasswdEntry[] {
  const entries: PasswdEntry[] = [];
  for (const fields of fieldsOf(content)) {
    const [name, , uid, gid] = [fields[0], fields[1], parseId(fields[2]), parseId(fields[3])];
    if (name !== undefined && uid !== undefined && gid !== undefined) entries.push({ name, uid, gid });
  }
  return entries;
}

export function parseGroup(content: Buffer | undefined): GroupEntry[] {
  const entries: GroupEntry[] = [];
  for (const fields of fieldsOf(content)) {
    const [name, gid, members] = [fields[0], parseId(fields[2]), fields[3] ?? ""];
    if (name === undefined || gid === undefined) continue;
    const names = members.split(",").map((member) => member.trim());
    entries.push({ name, gid, members: names.filter((member) => member !== "") });
  }
  return entries;
}
