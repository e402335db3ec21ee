import type { TerminalSize } from "./remote-command.ts";

/** A size takes some 30 bytes; more without an end is none. */
const mostPendingBytes = 4096;

/** Sizes of the client's terminal: JSON objects {"Width":N,"Height":N} one behind the other. What is none of them is skipped. */
export class TerminalSizes {
  #pending = "";
  #last: TerminalSize | undefined;
  #listener: ((size: TerminalSize) => void) | undefined;

  readonly last = (): TerminalSize | undefined => this.#last;
  readonly onResize = (listener: (size: TerminalSize) => void): void => {
    this.#listener = listener;
  };

  take(bytes: Buffer): void {
    const parts = (this.#pending + bytes.toString("latin1")).split("}");
    this.#pending = (parts.pop() ?? "").slice(-mostPendingBytes);
    for (const part of parts) {
      const size = parse(`${part}}`);
      if (size === undefined) continue;
      this.#last = size;
      this.#listener?.(size);
    }
  }
}

function parse(text: string): TerminalSize | undefined {
  try {
    const { Width: columns, Height: rows } = JSON.parse(text) as { Width?: unknown; Height?: unknown };
    return isSide(columns) && isSide(rows) ? { rows, columns } : undefined;
  } catch {
    return undefined;
  }
}

function isSide(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= 65_535;
}
