/** The CRI log format: `<timestamp> <stream> <tags> <content>\n`, content being raw bytes. */
import { readFileSync } from "node:fs";

export interface LogRecord {
  readonly time: string;
  readonly stream: string;
  readonly tags: readonly string[];
  readonly content: Buffer;
}

/** Throws when a line is not of the format. */
export function readLog(path: string): LogRecord[] {
  const bytes = readFileSync(path);
  const records: LogRecord[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf(10, at);
    if (end < 0) throw new Error(`${path} ends in a torn record: ${bytes.subarray(at, at + 100)}`);
    records.push(parse(bytes.subarray(at, end)));
    at = end + 1;
  }
  return records;
}

function parse(line: Buffer): LogRecord {
  const [time = "", stream = "", tags = ""] = line.subarray(0, 100).toString("latin1").split(" ", 3);
  const content = line.subarray(time.length + stream.length + tags.length + 3);
  const record = { time, stream, tags: tags.split(":"), content };
  const rfc3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/;
  if (!rfc3339.test(time) || !/^(stdout|stderr)$/.test(stream) || !/^[PF]$/.test(record.tags[0] ?? "")) {
    throw new Error(`not a CRI log line: ${line.subarray(0, 200)}`);
  }
  return record;
}

/** What the container wrote to the stream: partial pieces joined, full ones ended by a line feed. */
export function bytesOf(records: readonly LogRecord[], stream: string): Buffer {
  const newline = Buffer.from("\n");
  return Buffer.concat(
    records
      .filter((record) => record.stream === stream)
      .flatMap(({ tags, content }) => (tags[0] === "F" ? [content, newline] : [content])),
  );
}

export const textOf = (records: readonly LogRecord[], stream: string): string => bytesOf(records, stream).toString();
