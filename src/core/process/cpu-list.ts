import { RuntimeError } from "../../lib/errors.ts";

/** As the kernel's own limit of NR_CPUS is far below it, a larger number is a mistake, and no mask for it is made. */
const most = 65_535;

/** "0-3,7" as a mask, lowest byte first, of whole 64-bit words. `what` names the field in errors. */
export function parseCpuList(text: string, what: string): Buffer {
  const numbers = text.split(",").flatMap((part) => {
    const [, from, to = from] = /^\s*(\d{1,5})(?:-(\d{1,5}))?\s*$/.exec(part) ?? [];
    const [first, last] = [Number(from), Number(to)];
    if (from === undefined || first > last || last > most) {
      throw new RuntimeError("invalid_argument", `${what} ${JSON.stringify(text)} is not a list of numbers such as "0-3,7"`);
    }
    return Array.from({ length: last - first + 1 }, (_, at) => first + at);
  });
  const mask = Buffer.alloc(Math.ceil((Math.max(...numbers) + 1) / 64) * 8);
  for (const number of numbers) mask[number >> 3] = (mask[number >> 3] ?? 0) | (1 << (number & 7));
  return mask;
}
