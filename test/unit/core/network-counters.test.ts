import { closeSync, constants, fstatSync, openSync } from "node:fs";
import { expect, it } from "vitest";
import { NetworkCounters } from "../../../src/core/network-counters.ts";

const pathOnly = 0o10_000_000; // O_PATH
const open = (): number => openSync("/proc/self/net/dev", constants.O_RDONLY | pathOnly);

it("are opened once and read anew each time", async () => {
  let opened = 0;
  const counters = new NetworkCounters(async () => {
    opened += 1;
    return open();
  });
  const [first] = await Promise.all([counters.read(), counters.read()]);
  expect(first.every((item) => item.name !== "lo" && item.rxBytes >= 0n)).toBe(true);
  await counters.read();
  expect(opened).toBe(1);
  counters.close();
});

it("are asked for again when the helper failed", async () => {
  let attempts = 0;
  const counters = new NetworkCounters(async () => {
    if (++attempts === 1) throw new Error("the helper is busy");
    return open();
  });
  await expect(counters.read()).rejects.toThrow("the helper is busy");
  await counters.read();
  expect(attempts).toBe(2);
  counters.close();
});

it("keep their descriptor until the last reader has ended, and then close it", async () => {
  const fd = open();
  const counters = new NetworkCounters(async () => fd);
  const reading = counters.read();
  counters.close();
  await reading;
  await new Promise((resolve) => setImmediate(resolve));
  expect(() => fstatSync(fd)).toThrow("EBADF");
  await expect(counters.read()).rejects.toMatchObject({ code: "unavailable" });
});

it("say what is wrong when the file is none", async () => {
  const fd = openSync("/", constants.O_RDONLY);
  const counters = new NetworkCounters(async () => fd);
  await expect(counters.read()).rejects.toMatchObject({ code: "unavailable", fields: { errnoName: "EISDIR" } });
  counters.close();
  await new Promise((resolve) => setImmediate(resolve));
  expect(() => closeSync(fd)).toThrow("EBADF");
});
