import { closeSync, readSync, writeSync } from "node:fs";
import { buffer } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { addon } from "../../../src/native/addon.ts";
import { DescriptorReadable, DescriptorWritable } from "../../../src/native/descriptor-streams.ts";

it("carries every byte through a pipe, however slowly it is read", async () => {
  const [readEnd, writeEnd] = addon.pipe(0);
  const sent = Buffer.alloc(3 << 20, "0123456789abcdef");
  const writable = new DescriptorWritable(writeEnd);
  const readable = new DescriptorReadable(readEnd);
  writable.end(sent);
  const chunks: Buffer[] = [];
  for await (const chunk of readable) {
    chunks.push(chunk);
    if (chunks.length % 16 === 0) await sleep(1);
  }
  expect(Buffer.concat(chunks).equals(sent)).toBe(true);
});

it("reads nothing ahead of who reads it, so that the writer waits", async () => {
  const [readEnd, writeEnd] = addon.pipe(0);
  const readable = new DescriptorReadable(readEnd);
  const writable = new DescriptorWritable(writeEnd);
  let taken = 0;
  const chunk = Buffer.alloc(64 << 10);
  const flood = (): void => {
    writable.write(chunk, () => {
      taken += chunk.length;
      flood();
    });
  };
  flood();
  await sleep(100);
  const unread = taken;
  expect(unread).toBeLessThanOrEqual(256 << 10);
  readable.resume();
  await expect.poll(() => taken).toBeGreaterThan(unread + (1 << 20));
  writable.destroy();
  readable.destroy();
});

it("drops what is written once nobody reads any more", async () => {
  const [readEnd, writeEnd] = addon.pipe(0);
  const writable = new DescriptorWritable(writeEnd);
  let written = 0;
  writable.write(Buffer.alloc(1 << 20), () => written++);
  await sleep(20);
  closeSync(readEnd);
  await expect.poll(() => written).toBe(1);
  await new Promise<void>((resolve) => writable.end(Buffer.from("more"), () => resolve()));
});

it("closes the descriptor at its end, so that the reader sees one", async () => {
  const [readEnd, writeEnd] = addon.pipe(0);
  const writable = new DescriptorWritable(writeEnd);
  const read = buffer(new DescriptorReadable(readEnd));
  writable.end("last");
  expect((await read).toString()).toBe("last");
});

it("ends although others hold the pipe, after what the process wrote and a grace for the rest", async () => {
  const [readEnd, writeEnd] = addon.pipe(0);
  const readable = new DescriptorReadable(readEnd);
  writeSync(writeEnd, "before the end ");
  readable.endAfter(300);
  await sleep(50);
  writeSync(writeEnd, "in the grace");
  expect((await buffer(readable)).toString()).toBe("before the end in the grace");
  closeSync(writeEnd);
});

it("keeps what a process wrote before its end for a reader that takes it much later", async () => {
  const [readEnd, writeEnd] = addon.pipe(0);
  const readable = new DescriptorReadable(readEnd);
  const full = Buffer.alloc(60_000, "x");
  writeSync(writeEnd, full);
  readable.endAfter(0);
  await sleep(200);
  expect((await buffer(readable)).length).toBe(full.length);
  closeSync(writeEnd);
});

it("cannot be kept open by somebody who writes for ever", async () => {
  const [readEnd, writeEnd] = addon.pipe(0);
  const readable = new DescriptorReadable(readEnd);
  const writable = new DescriptorWritable(writeEnd);
  const flood = (): void => void writable.write(Buffer.alloc(4096), () => setImmediate(flood));
  flood();
  readable.endAfter(50);
  await pipeline(readable, async (source) => {
    for await (const _ of source);
  });
  writable.destroy();
});

it("leaves no descriptor behind when it is destroyed", () => {
  const [readEnd, writeEnd] = addon.pipe(0);
  new DescriptorReadable(readEnd).destroy();
  new DescriptorWritable(writeEnd).destroy();
  expect(() => readSync(readEnd, Buffer.alloc(1))).toThrow(/EBADF/);
  expect(() => writeSync(writeEnd, "x")).toThrow(/EBADF/);
});
