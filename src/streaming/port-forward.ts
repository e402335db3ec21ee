import type { Duplex } from "node:stream";

/** What a token for port forwarding stands for. */
export interface PortForward {
  /** What the request named; clients over SPDY name ports as they go, and may name others. */
  readonly ports: readonly number[];
  /** A connection to this port in the pod; either direction may end before the other. */
  readonly connect: (port: number, gone: AbortSignal) => Promise<Duplex>;
}

/** Decimal, 1 to 65535. */
export function parsePort(text: string): number | undefined {
  if (!/^[0-9]{1,5}$/.test(text)) return undefined;
  const port = Number(text);
  return port >= 1 && port <= 65_535 ? port : undefined;
}
