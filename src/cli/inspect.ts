import type { Command } from "./command.ts";
import { CommandError } from "./command-error.ts";
import type { Connection } from "./connection.ts";
import { json } from "./text.ts";

/** Values of `info` are JSON in text; show them as what they are. */
function unfold(info: Readonly<Record<string, string>>): Record<string, unknown> {
  const value = (text: string): unknown => {
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  };
  return Object.fromEntries(Object.entries(info).map(([name, text]) => [name, value(text)]));
}

const notFound = (error: unknown): boolean => error instanceof CommandError && error.message.startsWith("NOT_FOUND");

async function firstOf(attempts: readonly (() => Promise<unknown>)[], id: string): Promise<unknown> {
  for (const attempt of attempts) {
    try {
      const found = await attempt();
      if (found !== undefined) return found;
    } catch (error) {
      if (!notFound(error)) throw error;
    }
  }
  throw new CommandError(`nothing here has the id ${id}`);
}

/** The container, pod or image that `id` names. */
export function inspectObject(c: Connection, id: string): Promise<unknown> {
  return firstOf(
    [
      async () => {
        const reply = await c.call(c.runtime, c.runtime.containerStatus, { containerId: id, verbose: true });
        return { container: reply.status, info: unfold(reply.info) };
      },
      async () => {
        const reply = await c.call(c.runtime, c.runtime.podSandboxStatus, { podSandboxId: id, verbose: true });
        return { pod: reply.status, info: unfold(reply.info) };
      },
      async () => {
        const image = { image: id, annotations: {}, userSpecifiedImage: "", runtimeHandler: "", imageRef: "" };
        const reply = await c.call(c.image, c.image.imageStatus, { image, verbose: true });
        return reply.image === undefined ? undefined : { image: reply.image, info: unfold(reply.info) };
      },
    ],
    id,
  );
}

export const inspect: Command = {
  name: "inspect",
  arguments: "ID",
  summary: "show everything that is known of a container, a pod or an image",
  details: "ID is an id or an unambiguous prefix of one; for images also a name. The output is JSON.",
  arity: [1, 1],
  flags: {},
  async run({ connection, args: [id = ""], print }) {
    print(json(await inspectObject(connection(), id)));
    return 0;
  },
};
