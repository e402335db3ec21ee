import { type Dirent, readdirSync } from "node:fs";
import { Container } from "../../core/library/public.ts";
import { errnoName, messageOf } from "../../lib/errors.ts";
import type { Command, CommandContext, ContainerPlace } from "../command.ts";
import { CommandError, misused } from "../command-error.ts";
import { json, table } from "../text.ts";
import { type ShownState, shownState } from "./shown-state.ts";

export const list: Command = {
  name: "list",
  arguments: "",
  summary: "list the containers below --root",
  details: "What cannot be read is named on stderr and left out.",
  arity: [0, 0],
  flags: {
    format: { short: "f", value: "FORMAT", about: "table or json" },
    quiet: { short: "q", about: "only the ids" },
  },
  local: true,
  async run(context) {
    const { flags, print, json: asJson } = context;
    const format = flags.one("format") ?? (asJson ? "json" : "table");
    if (format !== "table" && format !== "json") throw misused(`--format is table or json, not ${JSON.stringify(format)}`);
    const found = await statesBelow(context);
    if (flags.has("quiet")) for (const { id } of found) print(id);
    else if (format === "json") print(found.length === 0 ? "null" : json(found));
    else {
      const rows = found.map((one) => [one.id, String(one.pid), one.status, one.bundle, one.created, one.owner]);
      print(table(["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], rows));
    }
    return 0;
  },
};

async function statesBelow({ place, warn }: CommandContext): Promise<readonly ShownState[]> {
  const shown = await Promise.all(
    entriesOf(place).map(async ({ name }) => {
      try {
        using container = await Container.load(place.root, name);
        return await shownState(place.root, container);
      } catch (error) {
        warn(`${place.root}/${name}: ${messageOf(error)}`);
        return undefined;
      }
    }),
  );
  return shown.filter((state) => state !== undefined);
}

function entriesOf({ root, asked }: ContainerPlace): readonly Dirent[] {
  try {
    return readdirSync(root, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .toSorted((a, b) => (a.name < b.name ? -1 : 1));
  } catch (error) {
    if (errnoName(error) === "ENOENT" && !asked) return [];
    throw new CommandError(`${root}: ${messageOf(error)}`);
  }
}
