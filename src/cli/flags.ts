/**
 * Flags as callers of OCI runtimes write them: `--name value`, `--name=value`, `-n value`, `--switch`, `--switch=true`, and long names
 * with a single dash. A value may begin with a dash.
 */
import { misused } from "./command-error.ts";

export interface Flag {
  readonly short?: string;
  readonly about: string;
  /** What the value is, for help; absent: a switch. */
  readonly value?: string;
  /** Kept for callers of other runtimes, and left out of help. */
  readonly hidden?: boolean;
}

export type FlagTable = Readonly<Record<string, Flag>>;

/** What was given. Of a flag with one value the last counts. */
export class Flags {
  readonly #given: ReadonlyMap<string, readonly string[]>;

  constructor(given: ReadonlyMap<string, readonly string[]>) {
    this.#given = given;
  }

  /** Whether the flag is there; a switch may be there as off. */
  has(name: string): boolean {
    const last = this.one(name);
    return last !== undefined && last !== "false";
  }

  one(name: string): string | undefined {
    return this.#given.get(name)?.at(-1);
  }

  all(name: string): readonly string[] {
    return this.#given.get(name) ?? [];
  }

  /** @throws CommandError for something else than a whole number. */
  integer(name: string): number | undefined {
    const text = this.one(name);
    if (text === undefined) return undefined;
    if (!/^-?\d+$/.test(text) || !Number.isSafeInteger(Number(text))) {
      throw misused(`--${name} wants a whole number, not ${JSON.stringify(text)}`);
    }
    return Number(text);
  }
}

interface Parsed {
  readonly flags: Flags;
  /** What is no flag, in order. */
  readonly rest: readonly string[];
}

/** `until` "first": whatever follows the first argument that is no flag belongs to it. @throws CommandError */
export function parseFlags(argv: readonly string[], table: FlagTable, until: "first" | "end"): Parsed {
  const given = new Map<string, string[]>();
  const rest: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at] ?? "";
    if (word === "--") {
      rest.push(...argv.slice(at + 1));
      break;
    }
    if (word === "-" || !word.startsWith("-")) {
      if (until === "first") {
        rest.push(...argv.slice(at));
        break;
      }
      rest.push(word);
      continue;
    }
    for (const { name, flag, value } of flagsIn(word, table)) {
      const values = given.get(name) ?? [];
      given.set(name, values);
      if (flag.value === undefined) values.push(switchValue(name, value));
      else if (value !== undefined) values.push(value);
      else if (at + 1 < argv.length) values.push(argv[++at] ?? "");
      else throw misused(`--${name} wants a value: ${flag.value}`);
    }
  }
  return { flags: new Flags(given), rest };
}

interface Found {
  readonly name: string;
  readonly flag: Flag;
  readonly value: string | undefined;
}

/** One flag, or several switches in one word (`-qa`). */
function flagsIn(word: string, table: FlagTable): readonly Found[] {
  const [, dashes = "", body = ""] = /^(--?)(.*)$/s.exec(word) ?? [];
  const equals = body.indexOf("=");
  const name = equals < 0 ? body : body.slice(0, equals);
  const value = equals < 0 ? undefined : body.slice(equals + 1);
  const long = Object.hasOwn(table, name) ? table[name] : undefined;
  if (long !== undefined && (dashes === "--" || name.length > 1)) return [{ name, flag: long, value }];
  const short = dashes === "-" ? byShort(name, table) : undefined;
  if (short !== undefined) return [{ ...short, value }];
  const letters = dashes === "-" && value === undefined ? [...name].map((letter) => byShort(letter, table)) : [];
  const switches = letters.flatMap((found) => (found?.flag.value === undefined && found !== undefined ? [found] : []));
  if (switches.length > 0 && switches.length === name.length) return switches.map((found) => ({ ...found, value: undefined }));
  throw misused(`there is no flag ${dashes}${name}`);
}

function byShort(letter: string, table: FlagTable): Omit<Found, "value"> | undefined {
  const found = Object.entries(table).find(([, { short }]) => short === letter);
  return found === undefined ? undefined : { name: found[0], flag: found[1] };
}

function switchValue(name: string, value: string | undefined): string {
  if (value === undefined || value === "true" || value === "1") return "true";
  if (value === "false" || value === "0") return "false";
  throw misused(`--${name} is a switch: true or false, not ${JSON.stringify(value)}`);
}
