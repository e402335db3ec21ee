import { unknownStatus } from "./messages.ts";

/** How a process ended. */
export interface Ending {
  /** 0 to 255; 128+signal when a signal ended it; 255 when it is not known. */
  readonly exitCode: number;
  readonly signal: number;
  readonly known: boolean;
}

/** Reads a status as wait(2) gives it: low 7 bits the signal, next 8 the exit code. */
export function readWaitStatus(status: number): Ending {
  if (status === unknownStatus) return { exitCode: 255, signal: 0, known: false };
  const signal = status & 0x7f;
  return signal === 0
    ? { exitCode: (status >> 8) & 0xff, signal: 0, known: true }
    : { exitCode: 128 + signal, signal, known: true };
}
