import { writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { findMachine } from "../../core/library/machine.ts";
import { errnoName, messageOf } from "../../lib/errors.ts";
import type { Command } from "../command.ts";
import { CommandError } from "../command-error.ts";
import { exampleSpec } from "./example-spec.ts";

export const spec: Command = {
  name: "spec",
  arguments: "",
  summary: "write a config.json to begin with",
  details: "Its root is the directory rootfs of the bundle, which is yours to fill.",
  arity: [0, 0],
  flags: {
    bundle: { short: "b", value: "DIR", about: "where (default: the working directory)" },
    rootless: { about: "for a caller who is not root" },
  },
  local: true,
  async run({ flags }) {
    const file = join(resolve(flags.one("bundle") ?? "."), "config.json");
    const { version } = (await findMachine()).cgroups.hierarchies;
    const ids = flags.has("rootless") ? { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 } : undefined;
    try {
      writeFileSync(file, `${JSON.stringify(exampleSpec(version, ids), null, "\t")}\n`, { flag: "wx", mode: 0o644 });
    } catch (error) {
      if (errnoName(error) === "EEXIST") throw new CommandError("File config.json exists. Remove it first");
      throw new CommandError(`${file}: ${messageOf(error)}`);
    }
    return 0;
  },
};
