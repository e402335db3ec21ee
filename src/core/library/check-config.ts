/** Everything that is known of a config before anything of it is made. */
import type { Config } from "./config.ts";
import type { Machine } from "./machine.ts";
import { machineFacts } from "./machine-facts.ts";
import { findMappers, needsMapper, refuseBeyondUser } from "./rootless.ts";
import { type MachineFacts, namespaceOf, validateConfig } from "./validate.ts";

/** @throws RuntimeError as validateConfig does, and for what an ordinary user cannot have. `facts`: in place of this machine's. */
export function checkConfig(config: Config, machine: Machine, facts: Partial<MachineFacts> = {}): void {
  validateConfig(config, { ...machineFacts(machine.cgroups.hierarchies.version), ...facts });
  const { caller } = machine;
  if (caller === undefined) return;
  refuseBeyondUser(config, caller);
  if (namespaceOf(config, "user")?.path === undefined && needsMapper(config, caller)) findMappers(caller);
}
