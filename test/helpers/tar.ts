/** Writes tar streams entry by entry, well-formed or not: the raw material of layers. */

export interface TarEntry {
  readonly name: string;
  /** POSIX type flag: "0" file, "1" hard link, "2" symlink, "3" char, "4" block, "5" directory, "6" fifo. Default "0". */
  readonly type?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  /** Seconds; a fraction goes into a PAX record. */
  readonly mtime?: number;
  readonly link?: string;
  readonly content?: string | Uint8Array;
  /** Size field of the header when it shall differ from the content's length. */
  readonly size?: number;
  readonly major?: number;
  readonly minor?: number;
  /** Written as SCHILY.xattr.* PAX records. */
  readonly xattrs?: Readonly<Record<string, string | Uint8Array>>;
  /** Further PAX records, as they are. */
  readonly pax?: Readonly<Record<string, string>>;
}

const blockSize = 512;
const emptyBlock = Buffer.alloc(blockSize);

function octal(value: number, width: number): Buffer {
  const text = Math.trunc(value)
    .toString(8)
    .padStart(width - 1, "0");
  if (value >= 0 && text.length < width) return Buffer.from(`${text}\0`, "latin1");
  // base-256 as GNU tar writes numbers that do not fit
  const field = Buffer.alloc(width);
  let rest = BigInt.asUintN(8 * width, BigInt(Math.trunc(value)));
  for (let i = width - 1; i >= 0; i--) {
    field[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  field[0] = (field[0] ?? 0) | 0x80;
  return field;
}

/** One 512 byte header; the checksum is right, everything else is as told. */
export function tarHeader(entry: TarEntry, size: number): Buffer {
  const header = Buffer.alloc(blockSize);
  header.write(entry.name, 0, 100, "utf8");
  octal((entry.mode ?? (entry.type === "5" ? 0o755 : 0o644)) & 0o7777, 8).copy(header, 100);
  octal(entry.uid ?? 0, 8).copy(header, 108);
  octal(entry.gid ?? 0, 8).copy(header, 116);
  octal(size, 12).copy(header, 124);
  octal(entry.mtime ?? 1_700_000_000, 12).copy(header, 136);
  header.fill(" ", 148, 156);
  header.write(entry.type ?? "0", 156, 1, "latin1");
  header.write(entry.link ?? "", 157, 100, "utf8");
  header.write("ustar\x0000", 257, 8, "latin1");
  octal(entry.major ?? 0, 8).copy(header, 329);
  octal(entry.minor ?? 0, 8).copy(header, 337);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, 8, "latin1");
  return header;
}

function paxRecord(key: string, value: string | Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value), Buffer.from("\n")]);
  let length = body.length + 1;
  while (String(length).length + body.length !== length) length = String(length).length + body.length;
  return Buffer.concat([Buffer.from(String(length)), body]);
}

function padded(content: Buffer): Buffer[] {
  const rest = content.length % blockSize;
  return rest === 0 ? [content] : [content, emptyBlock.subarray(rest)];
}

/** One entry with its extension headers and its content. */
export function tarEntry(entry: TarEntry): Buffer {
  const content = Buffer.from(entry.content ?? "");
  const records: Buffer[] = Object.entries(entry.pax ?? {}).map(([key, value]) => paxRecord(key, value));
  if (Buffer.byteLength(entry.name) > 100) records.push(paxRecord("path", entry.name));
  if (Buffer.byteLength(entry.link ?? "") > 100) records.push(paxRecord("linkpath", entry.link ?? ""));
  if (entry.mtime !== undefined && !Number.isInteger(entry.mtime)) records.push(paxRecord("mtime", String(entry.mtime)));
  for (const [key, value] of Object.entries(entry.xattrs ?? {})) records.push(paxRecord(`SCHILY.xattr.${key}`, value));
  const extension = Buffer.concat(records);
  const parts: Buffer[] = [];
  if (extension.length > 0) parts.push(tarHeader({ name: "PaxHeader", type: "x" }, extension.length), ...padded(extension));
  parts.push(tarHeader(entry, entry.size ?? content.length), ...padded(content));
  return Buffer.concat(parts);
}

/** A whole archive with its two zero blocks at the end. */
export function tar(entries: readonly TarEntry[]): Buffer {
  return Buffer.concat([...entries.map(tarEntry), emptyBlock, emptyBlock]);
}
