/** A filesystem of its own, filled to the last block: what the store still does then. */
import { execFileSync } from "node:child_process";
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, truncateSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { openStore } from "../../src/store/sqlite-store.ts";
import type { Store } from "../../src/store/store.ts";

let directory: string;
let store: Store | undefined;
let image: string | undefined;
const log = { info: () => {}, warn: () => {}, error: () => {} };
const open = (): Store => openStore({ directory, log, ballastBytes: 1 << 20, eventsPerObject: 100, eventsTotal: 1000 });
const pod = (n: number): object => ({ id: n, padding: "x".repeat(1000) });

function fill(): void {
  const fd = openSync(join(directory, "filler"), "w");
  for (const size of [1 << 20, 4096, 512]) {
    try {
      for (;;) writeSync(fd, Buffer.alloc(size, 1));
    } catch (error) {
      expect((error as NodeJS.ErrnoException).code).toBe("ENOSPC");
    }
  }
  closeSync(fd);
}

beforeEach(() => {
  expect(process.getuid?.()).toBe(0);
  directory = mkdtempSync(join(tmpdir(), "caisson-full-"));
});

afterEach(async () => {
  await store?.close().catch(() => {});
  store = undefined;
  execFileSync("umount", [directory]);
  rmSync(directory, { recursive: true, force: true });
  if (image !== undefined) rmSync(image);
  image = undefined;
});

const mounts = {
  tmpfs: () => execFileSync("mount", ["-t", "tmpfs", "-o", "size=16m", "caisson-test", directory]),
  ext4: () => {
    image = `${directory}.img`;
    closeSync(openSync(image, "w"));
    truncateSync(image, 24 << 20);
    execFileSync("mkfs.ext4", ["-q", "-m", "0", image]);
    execFileSync("mount", ["-o", "loop", image, directory]);
  },
};

describe.each(Object.entries(mounts))("on a full %s", (_name, mount) => {
  it("what is new is refused, what is there can be changed and removed, and room is taken back later", async () => {
    mount();
    store = open();
    const pods = store.collection<object>("pods");
    for (let n = 0; n < 200; n++) pods.put(`p${n}`, pod(n));
    expect(existsSync(join(directory, "caisson.db.ballast"))).toBe(true);
    fill();
    let added = 0;
    const addUntilRefused = (): void => {
      for (; added < 20_000; added++) pods.put(`new${added}`, pod(added));
    };
    expect(addUntilRefused).toThrow(/free space below the root directory/);
    expect(() => pods.put("another", pod(1))).toThrow(expect.objectContaining({ code: "resource_exhausted" }));
    expect(existsSync(join(directory, "caisson.db.ballast"))).toBe(true);

    for (let n = 0; n < 200; n++) pods.put(`p${n}`, { ...pod(n), exited: true });
    for (let n = 0; n < 100; n++) {
      expect(store.event(`p${n}`, "removed")).toBeGreaterThan(0n);
      pods.delete(`p${n}`);
    }
    expect(pods.load().size).toBe(100 + added);

    rmSync(join(directory, "filler"));
    pods.put("another", pod(1));
    await store.close();
    store = open();
    expect(store.collection("pods").load().size).toBe(101 + added);
    expect(existsSync(join(directory, "caisson.db.ballast"))).toBe(true);
  });

  it("a daemon that starts there finds its records", async () => {
    mount();
    store = open();
    store.collection("pods").put("p", pod(1));
    await store.close();
    fill();
    store = open();
    const pods = store.collection<object>("pods");
    expect(pods.load().size).toBe(1);
    expect(store.rebuilt).toBeUndefined();
    pods.put("p", { ...pod(1), exited: true });
    pods.delete("p");
    expect(pods.load().size).toBe(0);
  });
});
