/** Columns aligned for reading. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...all.map((row) => (row[column] ?? "").length)));
  return all
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** JSON with bigint as numbers in text, as the proto's own JSON form has them. */
export function json(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) => (typeof inner === "bigint" ? inner.toString() : inner), 2);
}

const shortIdLength = 13;
export const shortId = (id: string): string => id.slice(0, shortIdLength);

const units = [
  ["d", 86_400],
  ["h", 3600],
  ["min", 60],
] as const;

/** How long ago a moment (nanoseconds since the epoch) was, roughly. */
export function ago(atNs: bigint, nowMs = Date.now()): string {
  if (atNs === 0n) return "-";
  const seconds = Math.max(0, nowMs / 1000 - Number(atNs / 1_000_000n) / 1000);
  for (const [unit, size] of units) if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

/** Nanoseconds since the epoch as UTC with microseconds. */
export function moment(atNs: bigint): string {
  const micros = (atNs / 1000n) % 1_000_000n;
  return `${new Date(Number(atNs / 1_000_000n)).toISOString().slice(0, 19)}.${micros.toString().padStart(6, "0")}Z`;
}
