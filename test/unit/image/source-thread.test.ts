import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { digestOf, hexOf } from "../../../src/image/digest.ts";
import { fromPlain, toPlain } from "../../../src/image/source-messages.ts";
import { RemoteSource, SourceThread } from "../../../src/image/source-thread.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import { addon } from "../../../src/native/addon.ts";
import { type LogLine, recordingLog } from "../../helpers/image-service.ts";

const content = Buffer.alloc(300_000, "layer");
const blob = { mediaType: "", digest: digestOf(content), sizeBytes: content.length };
const never = new AbortController().signal;
let dir = "";
let thread: SourceThread;
let source: RemoteSource;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "caisson-layout-"));
  mkdirSync(join(dir, "blobs/sha256"), { recursive: true });
  writeFileSync(join(dir, "blobs/sha256", hexOf(blob.digest)), content);
  const lines: LogLine[] = [];
  thread = new SourceThread({ progressTimeoutMs: 1000, log: recordingLog(lines) });
  source = new RemoteSource(thread, { id: 1, kind: "layout", name: "local/it", dir }, "local/it", "layout");
});
afterEach(async () => {
  vi.useRealTimers();
  await thread.close();
  rmSync(dir, { recursive: true });
});

const threadNames = (): string[] =>
  readdirSync("/proc/self/task").map((tid) => readFileSync(`/proc/self/task/${tid}/comm`, "utf8").trim());
const readers = (): number => threadNames().filter((name) => name === "image-source").length;

it("feeds a pipe at its reader's pace, and leaves the descriptor to its owner", async () => {
  const [from, to] = addon.pipe(0);
  const got: Buffer[] = [];
  const end = new Promise<void>((resolve) =>
    addon.readPipe(
      from,
      (chunk) => got.push(chunk),
      () => resolve(),
    ),
  );
  await source.feed(blob, to, never);
  addon.close(to); // throws if it had been closed already
  await end;
  expect(Buffer.concat(got).equals(content)).toBe(true);
});

it("is done early with a pipe that nobody reads any more", async () => {
  const [from, to] = addon.pipe(0);
  addon.close(from);
  await source.feed(blob, to, never);
  addon.close(to);
});

it("stops with the caller's reason", async () => {
  const [from, to] = addon.pipe(0);
  const stop = new AbortController();
  const fed = source.feed(blob, to, stop.signal); // waits for a reader
  stop.abort(new RuntimeError("canceled", "enough"));
  await expect(fed).rejects.toMatchObject({ code: "canceled", message: "enough" });
  addon.close(from);
  addon.close(to);
});

it("fails as the source does, with code and message", async () => {
  const missing = { ...blob, digest: digestOf(Buffer.from("other")) };
  await expect(source.document(missing, 10, "it", never)).rejects.toMatchObject({
    code: "not_found",
    message: expect.stringContaining(`in the layout ${dir}`),
  });
});

it("fails what is under way when it is closed, and everything after", async () => {
  const [from, to] = addon.pipe(0);
  const fed = source.feed(blob, to, never);
  const failed = expect(fed).rejects.toMatchObject({ code: "unavailable" });
  await thread.close();
  await failed;
  await expect(source.feed(blob, to, never)).rejects.toMatchObject({ code: "unavailable" });
  addon.close(from);
  addon.close(to);
});

it("has no thread before the first question and after a while without one", async () => {
  expect(readers()).toBe(0);
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  expect((await source.document(blob, content.length, "it", never)).equals(content)).toBe(true);
  expect(readers()).toBe(1);
  vi.runAllTimers();
  vi.useRealTimers();
  await vi.waitFor(() => expect(readers()).toBe(0));
  expect((await source.document(blob, content.length, "it", never)).length).toBe(content.length);
});

it("carries errors over with their causes", () => {
  const foreign = Object.assign(new Error("reset"), { code: "ECONNRESET" });
  const error = new RuntimeError("unknown", "no answer", { host: "h" }, foreign);
  const back = fromPlain(structuredClone(toPlain(error)));
  expect(back).toBeInstanceOf(RuntimeError);
  expect(back).toMatchObject({ code: "unknown", message: "no answer", fields: { host: "h" } });
  expect(back.cause).toMatchObject({ message: "reset", code: "ECONNRESET" });
});
