import { join } from "node:path";
import { Container } from "../../core/library/public.ts";
import { codeOf } from "../../lib/errors.ts";
import type { Command, CommandContext } from "../command.ts";
import { CommandError } from "../command-error.ts";
import { forceAway, givenId, removeLeftover } from "./loaded.ts";

export const remove: Command = {
  name: "delete",
  arguments: "ID",
  summary: "take away a container that does not run",
  details: "A created one is killed first; with --force so is any other, and one that does not exist is no failure.",
  arity: [1, 1],
  flags: { force: { short: "f", about: "kill it first" } },
  local: true,
  async run(context) {
    const force = context.flags.has("force");
    using container = await loadForRemoval(context, force);
    if (container === undefined) return 0;
    if (force) {
      await forceAway(container);
      return 0;
    }
    const status = await container.status();
    if (status === "running" || status === "paused") {
      throw new CommandError(`cannot delete container ${container.id} that is not stopped: ${status}`);
    }
    await container.destroy();
    return 0;
  },
};

async function loadForRemoval({ place, args }: CommandContext, force: boolean): Promise<Container | undefined> {
  const id = givenId(args);
  try {
    return await Container.load(place.root, id);
  } catch (error) {
    if (!force || codeOf(error) !== "not_found") throw error;
    removeLeftover(join(place.root, id));
    return undefined;
  }
}
