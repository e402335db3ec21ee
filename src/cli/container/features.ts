import { runtimeFeatures } from "../../core/library/features.ts";
import { buildVersion } from "../../lib/version.ts";
import type { Command } from "../command.ts";
import { json } from "../text.ts";

export const features: Command = {
  name: "features",
  arguments: "",
  summary: "print what this runtime can do, in the OCI features structure",
  details: "It says what is implemented, and of cgroups what this machine has.",
  arity: [0, 0],
  flags: {},
  local: true,
  async run({ print }) {
    print(json(await runtimeFeatures(buildVersion())));
    return 0;
  },
};
