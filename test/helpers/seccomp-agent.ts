/** A listener for seccomp notifications on a socket: calls go on, but making directories fails with EDQUOT. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";

export interface SeccompAgent extends AsyncDisposable {
  /** The messages that came with descriptors so far. */
  handed(): readonly Record<string, unknown>[];
}

export async function startSeccompAgent(path: string): Promise<SeccompAgent> {
  const agent = spawn("python3", [join(import.meta.dirname, "seccomp-agent.py"), path], { stdio: ["ignore", "pipe", "inherit"] });
  const ready = Promise.withResolvers<void>();
  let text = "";
  agent.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString();
    if (text.includes("\n")) ready.resolve();
  });
  await ready.promise;
  return {
    handed: () =>
      text
        .split("\n")
        .slice(0, -1)
        .flatMap((line) => JSON.parse(line).message ?? []),
    async [Symbol.asyncDispose]() {
      agent.kill("SIGKILL");
      await once(agent, "exit");
    },
  };
}
