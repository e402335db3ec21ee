import type { Connection } from "./connection.ts";

/** One verb of the `caisson` command. */
export interface Command {
  readonly name: string;
  /** Arguments as help shows them: "ID". */
  readonly arguments: string;
  readonly summary: string;
  /** More for `caisson help VERB`. */
  readonly details: string;
  /** Least and most number of arguments. */
  readonly arity: readonly [number, number];
  readonly flags: Readonly<Record<string, { readonly short?: string; readonly about: string }>>;
  run(context: CommandContext): Promise<number>;
}

export interface CommandContext {
  readonly args: readonly string[];
  readonly flags: ReadonlySet<string>;
  /** Machine-readable output was asked for. */
  readonly json: boolean;
  /** Connected at first use, so that what needs no daemon works without one. */
  readonly connection: () => Connection;
  readonly socket: string;
  readonly print: (text: string) => void;
}
