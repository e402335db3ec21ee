/** Bandwidth annotations of pods, as the `bandwidth` capability wants them. */
import { RuntimeError } from "../lib/errors.ts";

const ingress = "kubernetes.io/ingress-bandwidth";
const egress = "kubernetes.io/egress-bandwidth";

const suffixes: Readonly<Record<string, bigint>> = {
  "": 1n,
  k: 10n ** 3n,
  M: 10n ** 6n,
  G: 10n ** 9n,
  T: 10n ** 12n,
  P: 10n ** 15n,
  E: 10n ** 18n,
  Ki: 2n ** 10n,
  Mi: 2n ** 20n,
  Gi: 2n ** 30n,
  Ti: 2n ** 40n,
  Pi: 2n ** 50n,
};
const [least, most] = [10n ** 3n, 10n ** 15n];
/** What other runtimes give: bursts are not limited. Bits; the plugin refuses more. */
const burst = 2 ** 32 - 1;

/** A Kubernetes quantity in bits per second, rounded up as quantities are. */
function parseRate(annotation: string, text: string): number {
  const wrong = (why: string): RuntimeError =>
    new RuntimeError("invalid_argument", `annotation ${annotation} has the value ${JSON.stringify(text.slice(0, 64))}, ${why}`);
  const match = /^\+?(\d{1,18})(?:\.(\d{1,9}))?(?:([kMGTPE]|[KMGTP]i)|[eE](\d{1,2}))?$/.exec(text);
  if (match === null) throw wrong("which is no quantity such as 10M");
  const [, whole = "", fraction = "", suffix = "", exponent] = match;
  const scale = exponent === undefined ? (suffixes[suffix] ?? 1n) : 10n ** BigInt(exponent);
  const divisor = 10n ** BigInt(fraction.length);
  const rate = (BigInt(whole + fraction) * scale + divisor - 1n) / divisor;
  if (rate < least || rate > most) throw wrong("which is outside of 1k to 1P bits per second");
  return Number(rate);
}

export interface Bandwidth {
  readonly ingressRate?: number;
  readonly ingressBurst?: number;
  readonly egressRate?: number;
  readonly egressBurst?: number;
}

/** undefined without the annotations. */
export function bandwidthOf(annotations: Readonly<Record<string, string>>): Bandwidth | undefined {
  const [down, up] = [annotations[ingress], annotations[egress]];
  if (down === undefined && up === undefined) return undefined;
  return {
    ...(down === undefined ? {} : { ingressRate: parseRate(ingress, down), ingressBurst: burst }),
    ...(up === undefined ? {} : { egressRate: parseRate(egress, up), egressBurst: burst }),
  };
}
