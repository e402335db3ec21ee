import type { Connection } from "./connection.ts";
import type { Flags, FlagTable } from "./flags.ts";

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
  readonly flags: FlagTable;
  /** The first argument ends the flags: what follows belongs to a command of the caller's. */
  readonly flagsFirst?: boolean;
  /** Never asks the daemon: its client is not loaded. */
  readonly local?: boolean;
  /** Exit code of a failure that is this command's own; 1 when absent. */
  readonly failure?: number;
  run(context: CommandContext): Promise<number>;
}

/** What a verb needs when it leads containers itself, without a daemon. */
export interface ContainerPlace {
  /** Directory of the containers' states. */
  readonly root: string;
  /** Whether `root` was asked for, and is not the default. */
  readonly asked: boolean;
}

export interface CommandContext {
  readonly args: readonly string[];
  readonly flags: Flags;
  /** Machine-readable output was asked for. */
  readonly json: boolean;
  /** Connected at first use, so that what needs no daemon works without one. */
  readonly connection: () => Connection;
  readonly socket: string;
  readonly place: ContainerPlace;
  /** systemd makes the cgroups of new containers. */
  readonly systemdCgroup: boolean;
  readonly print: (text: string) => void;
  /** A line for people that is no result; also in the log, if there is one. */
  readonly warn: (text: string) => void;
}
