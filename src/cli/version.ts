import { buildVersion } from "../lib/version.ts";
import type { Command } from "./command.ts";
import { json } from "./text.ts";

export const version: Command = {
  name: "version",
  arguments: "",
  summary: "show the versions of this command and of the daemon",
  details: "Exit code 1 when no daemon answers.",
  arity: [0, 0],
  flags: {},
  async run({ connection, json: asJson, print }) {
    if (!asJson) print(`caisson ${buildVersion()}`);
    const c = connection();
    const daemon = await c.call(c.runtime, c.runtime.version, { version: "0.1.0" });
    print(
      asJson
        ? json({ caisson: buildVersion(), daemon })
        : `${daemon.runtimeName} daemon ${daemon.runtimeVersion}, CRI ${daemon.runtimeApiVersion}`,
    );
    return 0;
  },
};
