/** Containers by their ids, as the verbs take them. */
import { rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Container } from "../../core/library/public.ts";
import { messageOf } from "../../lib/errors.ts";
import type { CommandContext } from "../command.ts";
import { CommandError } from "../command-error.ts";

const killPatienceMs = 10_000;
const killPauseMs = 20;

export async function loadContainer({ place, args }: Pick<CommandContext, "place" | "args">): Promise<Container> {
  return await Container.load(place.root, givenId(args));
}

export function givenId([id]: readonly string[]): string {
  if (id === undefined || id === "") throw new CommandError("container id cannot be empty");
  return id;
}

/** Ends it, whatever it is, and takes it away. */
export async function forceAway(container: Container): Promise<void> {
  const killed = await container.signal("KILL").then(
    () => true,
    () => false,
  );
  const until = Date.now() + killPatienceMs;
  while (killed && (await container.status()) !== "stopped") {
    if (Date.now() > until) throw new CommandError("container init still running");
    await sleep(killPauseMs);
  }
  await container.destroy();
}

/** After a failure, which is what the caller is told; what is left besides is a warning. */
export async function discard(container: Container, warn: (text: string) => void): Promise<void> {
  try {
    await forceAway(container);
  } catch (error) {
    warn(`container ${container.id} could not be taken away: ${messageOf(error)}`);
  }
}

/** What a killed create left: a directory without a state. */
export function removeLeftover(directory: string): void {
  rmSync(directory, { recursive: true, force: true });
}
