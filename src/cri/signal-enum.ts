import { Signal } from "../gen/cri/v1/api.ts";
import { parseSignal } from "./translate-signal.ts";

/** Enum values by this machine's numbers; of two names for one signal the first of the enum wins, as SIGABRT before SIGIOT. */
const byNumber = new Map<number, Signal>();
for (const [name, value] of Object.entries(Signal)) {
  const number = parseSignal(
    name
      .replace(/^SIGNAL_/, "")
      .replace("PLUS", "+")
      .replace("MINUS", "-"),
  );
  if (number !== undefined && !byNumber.has(number)) byNumber.set(number, value);
}

export function signalEnum(number: number): Signal {
  return byNumber.get(number) ?? Signal.SIGNAL_RUNTIME_DEFAULT;
}
