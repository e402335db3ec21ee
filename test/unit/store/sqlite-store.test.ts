import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type NodeStore, openStore } from "../../../src/store/sqlite-store.ts";

interface Line {
  readonly fields: object;
  readonly message: string;
}

let directory: string;
let lines: Line[];
let open: NodeStore[];

function start(options: { eventsPerObject?: number; eventsTotal?: number; ballastBytes?: number } = {}): NodeStore {
  const record = (fields: object, message?: string): void => {
    lines.push(typeof fields === "string" ? { fields: {}, message: fields } : { fields, message: message ?? "" });
  };
  const log = { info: record, warn: record, error: record } as unknown as Parameters<typeof openStore>[0]["log"];
  const store = openStore({ directory, log, ballastBytes: 65_536, eventsPerObject: 100, eventsTotal: 1000, ...options });
  open.push(store);
  return store;
}

/** As a daemon that was killed leaves it: the log is not moved into the database file. */
function crashCopy(to: string): void {
  for (const name of readdirSync(directory)) cpSync(join(directory, name), join(to, name));
}

const file = (name = ""): string => join(directory, `caisson.db${name}`);
const pod = (n: number): object => ({ id: `p${n}`, createdAtNs: 1_795_432_109_123_456_789n, padding: "x".repeat(500) });

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "caisson-store-"));
  lines = [];
  open = [];
});

afterEach(async () => {
  for (const store of open) await store.close().catch(() => {});
  rmSync(directory, { recursive: true, force: true });
});

describe("documents", () => {
  it("are there after a gentle end, in the order of their keys", async () => {
    const first = start();
    for (const n of [3, 1, 2]) first.collection("pods").put(`p${n}`, pod(n));
    first.collection("pods").delete("p2");
    first.collection("pods").put("p1", { ...pod(1), changed: true });
    await first.close();
    const again = start();
    expect([...again.collection("pods").load()]).toEqual([
      ["p1", { ...pod(1), changed: true }],
      ["p3", pod(3)],
    ]);
    expect(again.collection("containers").load().size).toBe(0);
    expect(again.rebuilt).toBeUndefined();
  });

  it("survive a crash, without flush", () => {
    const first = start();
    first.collection("pods").put("p1", pod(1));
    const crashed = mkdtempSync(join(tmpdir(), "caisson-store-"));
    crashCopy(crashed);
    rmSync(directory, { recursive: true });
    directory = crashed;
    expect(start().collection("pods").load().size).toBe(1);
  });

  it("can be flushed", async () => {
    const store = start();
    const images = store.collection("images");
    images.put("i", { a: 1 });
    await expect(images.flush()).resolves.toBeUndefined();
  });

  it("stay readable while checkpoints run in their thread, and the log does not grow without bound", async () => {
    const store = start();
    const pods = store.collection("pods");
    for (let round = 0; round < 40; round++) {
      for (let n = 0; n < 200; n++) pods.put(`p${n}`, { round, padding: "y".repeat(2000) });
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(pods.load().get("p7")).toMatchObject({ round: 39 });
    expect(statSync(file("-wal")).size).toBeLessThan(60 << 20);
    expect(statSync(file()).size).toBeGreaterThan(200 * 2000);
  });

  it("are closed properly even when nothing else keeps the process", () => {
    const code = `
      import { openStore } from "./src/store/sqlite-store.ts";
      const log = { info() {}, warn() {}, error() {} };
      const store = openStore({ directory: ${JSON.stringify(directory)}, log, ballastBytes: 0, eventsPerObject: 9, eventsTotal: 9 });
      for (let n = 0; n < 600; n++) store.collection("pods").put("p", { n, padding: "x".repeat(4000) });
      await store.close();
      console.log("closed");`;
    const ended = spawnSync(process.execPath, ["--input-type=module-typescript", "-e", code], {
      cwd: join(import.meta.dirname, "../../.."),
      encoding: "utf8",
    });
    expect([ended.stdout, ended.status]).toEqual(["closed\n", 0]);
    expect(existsSync(file("-wal"))).toBe(false);
  });

  it("are only root's to read: containers' environments are among them", () => {
    start().collection("pods").put("p", pod(1));
    for (const name of ["", "-wal", "-shm"]) expect(statSync(file(name)).mode & 0o777).toBe(0o600);
  });
});

describe("events", () => {
  it("are numbered over all objects and across restarts", async () => {
    const first = start();
    expect(first.event("a", "created")).toBe(1n);
    expect(first.event("b", "created", { image: "x", code: 3 })).toBe(2n);
    await first.close();
    const again = start();
    expect(again.event("a", "removed")).toBe(3n);
    expect(again.timeline("a").map((e) => [e.sequence, e.kind])).toEqual([
      [1n, "created"],
      [3n, "removed"],
    ]);
    expect(again.timeline("b")[0]?.detail).toEqual({ image: "x", code: 3 });
    expect(Number((again.timeline("a")[0]?.atNs ?? 0n) / 1_000_000n)).toBeGreaterThan(Date.now() - 60_000);
  });

  it("can be looked for by the beginning of an id", () => {
    const store = start();
    for (const id of ["abc1", "abc2", "abd1", "ab"]) store.event(id, "created");
    store.event("abc1", "removed");
    expect(store.objectsLike("abc", 5)).toEqual(["abc1", "abc2"]);
    expect(store.objectsLike("ab", 2).length).toBe(2);
    expect(store.objectsLike("x", 5)).toEqual([]);
    expect(store.objectsLike("a%", 5)).toEqual([]);
  });

  it("are forgotten, oldest first, beyond the limits for an object and for all", () => {
    const store = start({ eventsPerObject: 20, eventsTotal: 300 });
    store.event("old", "created");
    for (let n = 0; n < 1000; n++) store.event("busy", `n${n}`);
    expect(store.timeline("busy").length).toBeLessThanOrEqual(20 + 64);
    expect(store.timeline("busy").at(-1)?.kind).toBe("n999");
    expect(store.timeline("old")).toEqual([]);
  });
});

describe("a file that cannot be trusted is set aside and made anew", () => {
  async function filled(): Promise<void> {
    const store = start();
    for (let n = 0; n < 400; n++) store.collection("pods").put(`p${n}`, pod(n));
    await store.close();
  }
  const setAside = (): string[] => readdirSync(directory).filter((name) => name.startsWith("caisson.db.damaged-"));

  function expectRebuilt(reason: RegExp): void {
    const store = start();
    expect(store.rebuilt).toMatch(reason);
    expect(store.collection("pods").load().size).toBe(0);
    store.collection("pods").put("new", pod(1));
    expect(store.collection("pods").load().size).toBe(1);
    expect(lines.map((l) => l.message)).toContain("database made anew; the old one is kept beside it");
  }

  it("when it is not a database", async () => {
    await filled();
    writeFileSync(file(), "this is no database, but long enough to have a header of one hundred bytes ......................");
    expectRebuilt(/no valid header/);
    expect(setAside().length).toBe(1);
  });

  it("when its end is missing", async () => {
    await filled();
    truncateSync(file(), 8192);
    expectRebuilt(/damaged|malformed/);
    expect(setAside().length).toBe(1);
  });

  it("when it is empty", async () => {
    await filled();
    truncateSync(file(), 0);
    expectRebuilt(/no valid header/);
  });

  it("when pages in the middle are garbage", async () => {
    await filled();
    const bytes = Buffer.alloc(4096 * 3, 0xa5);
    const { openSync, writeSync, closeSync } = await import("node:fs");
    const fd = openSync(file(), "r+");
    writeSync(fd, bytes, 0, bytes.length, 4096 * 5);
    closeSync(fd);
    expectRebuilt(/damaged|malformed/);
    expect(setAside().length).toBe(1);
  });

  it("when a newer version made it", async () => {
    await filled();
    const database = new DatabaseSync(file());
    database.exec("PRAGMA user_version = 99");
    database.close();
    expectRebuilt(/version 99, newer than/);
  });

  it("when it was deleted, it says so; a log that stayed behind is not mixed in", async () => {
    await filled();
    rmSync(file());
    writeFileSync(file("-wal"), "stale");
    expectRebuilt(/missing/);
  });
});

it("says nothing about a rebuild on a new installation", () => {
  expect(start().rebuilt).toBeUndefined();
  expect(lines).toEqual([]);
});

it("opens an older copy as it is, without the newer log, and says so", async () => {
  const first = start();
  first.collection("pods").put("old", pod(1));
  await first.close();
  cpSync(file(), file(".copy"));
  const second = start();
  second.collection("pods").put("newer", pod(2));
  // Killed: its log stays. Then the older copy is put in place.
  const crashed = mkdtempSync(join(tmpdir(), "caisson-store-"));
  crashCopy(crashed);
  await second.close();
  rmSync(directory, { recursive: true });
  directory = crashed;
  cpSync(file(".copy"), file());
  const third = start();
  expect([...third.collection("pods").load().keys()]).toEqual(["old"]);
  expect(lines.map((l) => l.message).join()).toMatch(/older copy: opened 1 times, this installation's 2 times/);
  expect(existsSync(file())).toBe(true);
});
