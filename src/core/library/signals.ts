import { constants } from "node:os";
import { RuntimeError } from "../../lib/errors.ts";

export const sigkill = 9;
const highestSignal = 64;

/** A number, or a name with or without SIG in any case. */
export function signalNumber(signal: number | string): number {
  const text = String(signal).toUpperCase();
  if (/^[0-9]+$/.test(text) && Number(text) <= highestSignal) return Number(text);
  const names: Readonly<Record<string, number>> = constants.signals;
  const number = names[text.startsWith("SIG") ? text : `SIG${text}`];
  if (number === undefined) throw new RuntimeError("invalid_argument", `unknown signal ${JSON.stringify(String(signal))}`);
  return number;
}
