import { setTimeout as sleep } from "node:timers/promises";
import type { Container } from "../../core/library/public.ts";
import { codeOf } from "../../lib/errors.ts";
import type { Command, CommandContext } from "../command.ts";
import { CommandError, misused } from "../command-error.ts";
import { eventData, numbersAsJson } from "./event-data.ts";
import { loadContainer } from "./loaded.ts";

const defaultInterval = "5s";
const unitMs: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

export const events: Command = {
  name: "events",
  arguments: "ID",
  summary: "print statistics and OOM kills of a container, a JSON object per line, until it ends",
  details: "",
  arity: [1, 1],
  flags: {
    stats: { about: "print the statistics once" },
    interval: { value: "TIME", about: `between statistics, as 500ms, 5s or 1m30s (default: ${defaultInterval})` },
  },
  local: true,
  async run(context) {
    const intervalMs = parseDuration(context.flags.one("interval") ?? defaultInterval);
    using container = await running(context);
    if (context.flags.has("stats")) await printStats(container, context);
    else await follow(container, context, intervalMs);
    return 0;
  },
};

export const stats: Command = {
  name: "stats",
  arguments: "ID",
  summary: "print statistics of a container as JSON, once",
  details: "The same as events --stats.",
  arity: [1, 1],
  flags: {},
  local: true,
  async run(context) {
    using container = await running(context);
    await printStats(container, context);
    return 0;
  },
};

async function running(context: CommandContext): Promise<Container> {
  const container = await loadContainer(context);
  if ((await container.status()) === "stopped") throw new CommandError(`container with id ${container.id} is not running`);
  return container;
}

async function printStats(container: Container, { print }: CommandContext): Promise<void> {
  print(numbersAsJson({ type: "stats", id: container.id, data: eventData(await container.stats()) }));
}

async function follow(container: Container, context: CommandContext, intervalMs: number): Promise<void> {
  using kills = await container.notifyOOM();
  const ended = new AbortController();
  const watching = (async () => {
    for await (const _ of kills) context.print(numbersAsJson({ type: "oom", id: container.id }));
    ended.abort();
  })();
  while (!ended.signal.aborted) {
    try {
      await printStats(container, context);
    } catch (error) {
      // Taken away between its end and ours.
      if (codeOf(error) !== "failed_precondition" && codeOf(error) !== "not_found") throw error;
      break;
    }
    await sleep(intervalMs, undefined, { signal: ended.signal }).catch(() => {});
  }
  kills.end();
  await watching;
}

/** As Go writes durations: "1m30s". @throws CommandError */
export function parseDuration(text: string): number {
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)];
  const ms = parts.reduce((sum, [, number, unit = "s"]) => sum + Number(number) * (unitMs[unit] ?? 0), 0);
  if (ms > 0 && parts.map(([whole]) => whole).join("") === text) return ms;
  throw misused(`--interval ${JSON.stringify(text)} is no time above 0: write 5s or 500ms`);
}
