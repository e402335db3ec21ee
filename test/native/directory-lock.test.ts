import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { lockDirectory } from "../../src/native/file-lock.ts";

const top = join(import.meta.dirname, "../..");
let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "caisson-lock-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

it("keeps a second one out, names the first, and ends with it", () => {
  const first = lockDirectory(directory, "stop it");
  expect(() => lockDirectory(directory, "stop it")).toThrow(`another caissond (pid ${process.pid}) uses ${directory}; stop it`);
  first[Symbol.dispose]();
  lockDirectory(directory, "stop it")[Symbol.dispose]();
});

it("ends with a process that is killed, and is not inherited by what that process starts", async () => {
  const code = `
    import { lockDirectory } from "./src/native/file-lock.ts";
    import { spawn } from "node:child_process";
    lockDirectory(${JSON.stringify(directory)}, "");
    const child = spawn("sleep", ["30"], { stdio: "ignore" });
    console.log(child.pid);
    setInterval(() => {}, 1000);`;
  const holder = spawn(process.execPath, ["--input-type=module-typescript", "-e", code], {
    cwd: top,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const sleeper = Number(
    await new Promise<string>((resolve) => holder.stdout.once("data", (data: Buffer) => resolve(data.toString()))),
  );
  expect(() => lockDirectory(directory, "")).toThrow(`pid ${holder.pid}`);
  holder.kill("SIGKILL");
  await new Promise((resolve) => holder.once("exit", resolve));
  expect(readFileSync(`/proc/${sleeper}/comm`, "utf8")).toBe("sleep\n");
  lockDirectory(directory, "")[Symbol.dispose]();
  process.kill(sleeper, "SIGKILL");
});

it("tells a service manager what it asked for, and nobody else", async () => {
  const { openServiceNotify } = await import("../../src/native/service-notify.ts");
  const socket = join(directory, "notify");
  const listener = spawn("python3", [
    "-c",
    `import socket,sys
s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.bind(${JSON.stringify(socket)}); print("up",flush=True)
for _ in range(3): print(s.recv(200).decode().replace("\\n","|"),flush=True)`,
  ]);
  let heard = "";
  listener.stdout.on("data", (data: Buffer) => (heard += data.toString()));
  const hear = async (text: string): Promise<void> => {
    while (!heard.includes(text)) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  await hear("up");
  const environment: NodeJS.ProcessEnv = { NOTIFY_SOCKET: socket, WATCHDOG_USEC: "100000", OTHER: "kept" };
  const problems: unknown[] = [];
  const notify = openServiceNotify(environment, (error) => problems.push(error));
  expect(environment).toEqual({ OTHER: "kept" });
  notify.send("READY=1\nSTATUS=fine");
  await hear("READY=1|STATUS=fine");
  const startedAt = performance.now();
  notify.startWatchdog();
  await hear("WATCHDOG=1\nWATCHDOG=1");
  expect(performance.now() - startedAt).toBeGreaterThan(80);
  notify.close();
  expect(problems).toEqual([]);
  openServiceNotify({}, (error) => problems.push(error)).send("READY=1");
  openServiceNotify({ NOTIFY_SOCKET: "/nonexistent/x" }, (error) => problems.push(error)).send("READY=1");
  expect(problems).toHaveLength(1);
});
