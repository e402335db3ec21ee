import { RuntimeError } from "../../lib/errors.ts";

const highest = 8191;

/** A list as "0-3,8" as a bit mask, lowest numbers first. */
export function bitMask(list: string): Uint8Array {
  const numbers: number[] = [];
  for (const part of list.trim().split(",")) {
    const [, first, last = first] = /^\s*(\d+)(?:-(\d+))?\s*$/.exec(part) ?? [];
    if (first === undefined || Number(last) > highest || Number(last) < Number(first)) {
      throw new RuntimeError("invalid_argument", `${JSON.stringify(list)} is not a list of processors or memory nodes`);
    }
    for (let at = Number(first); at <= Number(last); at++) numbers.push(at);
  }
  const mask = new Uint8Array((Math.max(...numbers) >> 3) + 1);
  for (const at of numbers) mask[at >> 3] = (mask[at >> 3] ?? 0) | (1 << (at & 7));
  return mask;
}
