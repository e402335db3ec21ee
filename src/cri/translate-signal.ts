import { constants } from "node:os";
import { Signal } from "../gen/cri/v1/api.ts";
import { invalid, quoted } from "./translate-check.ts";

/** Real-time signals as programs see them: the C library keeps 32 and 33 for itself. */
const realtimeMin = 34;
const realtimeMax = 64;
const aliases: Readonly<Record<string, string>> = { SIGCLD: "SIGCHLD", SIGIOT: "SIGABRT", SIGPOLL: "SIGIO" };

/** "SIGTERM", "term", "15", "RTMIN+3", "SIGRTMAX-1"; undefined when it names no signal. */
export function parseSignal(text: string): number | undefined {
  if (/^[0-9]{1,3}$/.test(text)) {
    const number = Number(text);
    return number >= 1 && number <= realtimeMax ? number : undefined;
  }
  const upper = text.toUpperCase();
  const name = upper.startsWith("SIG") ? upper : `SIG${upper}`;
  const realtime = /^SIGRT(MIN|MAX)(?:([+-])([0-9]{1,2}))?$/.exec(name);
  if (realtime !== null) {
    const [, end, sign, offset] = realtime;
    if (sign !== undefined && sign !== (end === "MIN" ? "+" : "-")) return undefined;
    const number = end === "MIN" ? realtimeMin + Number(offset ?? 0) : realtimeMax - Number(offset ?? 0);
    return number >= realtimeMin && number <= realtimeMax ? number : undefined;
  }
  return (constants.signals as Readonly<Record<string, number>>)[aliases[name] ?? name];
}

/** CRI enum value to a number on this machine; undefined for RUNTIME_DEFAULT. */
function fromEnum(value: Signal): number | undefined {
  if (value === Signal.SIGNAL_RUNTIME_DEFAULT) return undefined;
  const entry = Object.entries(Signal).find(([, number]) => number === value);
  const name = entry?.[0]
    .replace(/^SIGNAL_/, "")
    .replace("PLUS", "+")
    .replace("MINUS", "-");
  const number = name === undefined ? undefined : parseSignal(name);
  if (number === undefined) throw invalid(`unknown stop signal ${String(value)}`);
  return number;
}

/** The config's, else the image's, else SIGTERM. */
export function resolveStopSignal(
  asked: Signal,
  ofImage: string,
): { readonly signal: number; readonly note: string | undefined } {
  const fromConfig = fromEnum(asked);
  if (fromConfig !== undefined) return { signal: fromConfig, note: undefined };
  if (ofImage === "") return { signal: constants.signals.SIGTERM, note: undefined };
  const fromImage = parseSignal(ofImage);
  if (fromImage !== undefined) return { signal: fromImage, note: undefined };
  return { signal: constants.signals.SIGTERM, note: `the image's stop signal ${quoted(ofImage)} is unknown: SIGTERM is used` };
}
