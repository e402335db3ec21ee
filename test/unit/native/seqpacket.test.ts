import { once } from "node:events";
import { closeSync, openSync, readlinkSync, writeSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { addon, errnoOf, isErrno } from "../../../src/native/addon.ts";
import { openFlag } from "../../../src/native/constants.ts";
import type { SeqpacketConnection } from "../../../src/native/types.ts";
import { openDescriptors } from "../../helpers/open-descriptors.ts";
import { SeqpacketPeer, socketName } from "../../helpers/seqpacket-peer.ts";

let peer: SeqpacketPeer;
beforeEach(async () => {
  peer = await SeqpacketPeer.listen();
});
afterEach(() => peer[Symbol.asyncDispose]());

interface Opened {
  readonly connection: SeqpacketConnection;
  readonly packets: { readonly text: string; readonly fds: number[] }[];
  readonly closed: Promise<number>;
  next(): Promise<{ readonly text: string; readonly fds: number[] }>;
}

function connect(onPacket: (text: string) => void = () => {}): Opened {
  const packets: { text: string; fds: number[] }[] = [];
  const closed = Promise.withResolvers<number>();
  let wake: () => void = () => {};
  const directory = openSync(peer.directory, openFlag.path);
  const connection = addon.seqpacketConnect(
    directory,
    socketName,
    (bytes, fds) => {
      packets.push({ text: bytes.toString(), fds });
      wake();
      onPacket(bytes.toString());
    },
    closed.resolve,
  );
  closeSync(directory);
  const next = async () => {
    while (packets.length === 0) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    const packet = packets.shift();
    if (packet === undefined) throw new Error("no packet");
    return packet;
  };
  return { connection, packets, closed: closed.promise, next };
}

describe("a seqpacket connection", () => {
  it("carries packets and descriptors both ways, and tells who listens", async () => {
    const { connection, next } = connect();
    await peer.next("accepted");
    expect(connection.peer()).toEqual({ pid: peer.pid, uid: process.getuid?.() });

    const file = openSync("/etc/hostname", "r");
    connection.send(Buffer.from("hello"), [file, file]);
    closeSync(file);
    const got = await peer.next("packet");
    expect(Buffer.from(got.hex ?? "", "hex").toString()).toBe("hello");
    expect(got.links).toEqual(["/etc/hostname", "/etc/hostname"]);

    peer.send(Buffer.from("answer"), ["/etc/passwd", "/etc/group"]);
    const { text, fds } = await next();
    expect(text).toBe("answer");
    expect(fds.map((fd) => readlinkSync(`/proc/self/fd/${fd}`))).toEqual(["/etc/passwd", "/etc/group"]);
    for (const fd of fds) {
      expect(
        Number.parseInt(
          /flags:\s*(\d+)/.exec((await import("node:fs")).readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "0",
          8,
        ) & openFlag.closeOnExec,
      ).not.toBe(0);
      closeSync(fd);
    }
    connection.close();
  });

  it("reports the end of the peer once, and leaves no descriptor", async () => {
    const before = openDescriptors();
    const { connection, closed } = connect();
    await peer.next("accepted");
    peer.hangUp();
    expect(await closed).toBe(0);
    expect(() => connection.send(Buffer.from("x"), [])).toThrow(/ENOTCONN/);
    connection.close();
    expect(openDescriptors()).toEqual(before);
  });

  it("can be closed by its own callback, which is then not called again", async () => {
    const opened = connect(() => opened.connection.close());
    await peer.next("accepted");
    for (const text of ["one", "two", "three"]) peer.send(Buffer.from(text));
    await peer.next("closed");
    expect(opened.packets.map((packet) => packet.text)).toEqual(["one"]);
  });

  it("says EAGAIN when the peer does not read, and when to go on", async () => {
    const { connection } = connect();
    await peer.next("accepted");
    peer.pause();
    const packet = Buffer.alloc(30_000, 7);
    let sent = 0;
    let failure: unknown;
    while (failure === undefined) {
      try {
        connection.send(packet, []);
        sent++;
      } catch (error) {
        failure = error;
      }
    }
    expect(isErrno(failure, "EAGAIN")).toBe(true);
    const writable = new Promise<void>((resolve) => connection.onWritable(resolve));
    peer.resume();
    await writable;
    connection.send(Buffer.from("last"), []);
    for (let i = 0; i < sent; i++) await peer.next("packet");
    expect((await peer.next("packet")).hex).toBe(Buffer.from("last").toString("hex"));
    connection.close();
  });

  it("ends on a packet that is too long instead of giving a part of it", async () => {
    const { closed, packets } = connect();
    await peer.next("accepted");
    peer.send(Buffer.alloc(70_000));
    expect(await closed).toBe(90); // EMSGSIZE
    expect(packets).toEqual([]);
  });

  it("ends when descriptors do not fit the limit, and keeps none of them", async () => {
    const before = openDescriptors();
    const { closed, packets } = connect();
    await peer.next("accepted");
    const hoard: number[] = [];
    // No descriptor is left for those that come.
    for (;;) {
      try {
        hoard.push(openSync("/dev/null", "r"));
      } catch {
        break;
      }
    }
    peer.send(Buffer.from("three"), ["/etc/passwd", "/etc/group", "/etc/hosts"]);
    expect(await closed).toBe(24); // EMFILE
    for (const fd of hoard) closeSync(fd);
    expect(packets).toEqual([]);
    expect(openDescriptors()).toEqual(before);
  });

  it("says that nobody listens", () => {
    const directory = openSync("/tmp", openFlag.path);
    const before = openDescriptors();
    const failure = (name: string): number | undefined => {
      try {
        addon.seqpacketConnect(
          directory,
          name,
          () => {},
          () => {},
        );
      } catch (error) {
        return errnoOf(error);
      }
      return undefined;
    };
    expect(failure("caisson-none.sock")).toBe(2);
    expect(failure("x".repeat(120))).toBe(36);
    expect(openDescriptors()).toEqual(before);
    closeSync(directory);
  });
});

describe("a worker thread that ends", () => {
  it("closes what it watched, and the process goes on", async () => {
    const script = `
      const { parentPort, workerData } = await import("node:worker_threads");
      const { addon } = await import(workerData.addon);
      addon.seqpacketConnect(workerData.directoryFd, "shim.sock", () => {}, () => {});
      addon.readPipe(workerData.readEnd, () => {}, () => {});
      addon.waitGone(addon.pidfdOpen(process.ppid));
      parentPort.postMessage("watching");
    `;
    const directoryFd = openSync(peer.directory, openFlag.path);
    const [readEnd, writeEnd] = addon.pipe(0);
    const workerData = { addon: new URL("../../../src/native/addon.ts", import.meta.url).href, directoryFd, readEnd };
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(script)}`), { workerData });
    await once(worker, "message");
    await peer.next("accepted");
    await worker.terminate();
    await peer.next("closed");
    expect(() => writeSync(writeEnd, "x")).toThrow(/EPIPE/);
    closeSync(writeEnd);
    closeSync(directoryFd);
  });
});

describe("readPipe", () => {
  it("reads to the end in order and closes its end", async () => {
    const before = openDescriptors();
    const [readEnd, writeEnd] = addon.pipe(0);
    const chunks: Buffer[] = [];
    const ended = new Promise<number>((resolve) => addon.readPipe(readEnd, (chunk) => chunks.push(chunk), resolve));
    const child = addon.spawn({
      path: "/bin/busybox",
      imageFd: null,
      argv: ["busybox", "seq", "1", "50000"],
      env: [],
      cwd: null,
      fds: [null, writeEnd, null],
      parentDeathSignal: 0,
      newSession: false,
    });
    addon.close(writeEnd);
    expect(await ended).toBe(0);
    await addon.waitChild(child.pidfd);
    addon.close(child.pidfd);
    const lines = Buffer.concat(chunks).toString().trim().split("\n");
    expect(lines.length).toBe(50_000);
    expect(lines.at(-1)).toBe("50000");
    expect(openDescriptors()).toEqual(before);
  });

  it("can be closed early, and then calls nothing", async () => {
    const before = openDescriptors();
    const [readEnd, writeEnd] = addon.pipe(0);
    let calls = 0;
    const reader = addon.readPipe(
      readEnd,
      () => calls++,
      () => calls++,
    );
    reader.close();
    reader.close();
    closeSync(writeEnd);
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(calls).toBe(0);
    expect(openDescriptors()).toEqual(before);
  });

  it("takes the descriptor also when it cannot watch it", () => {
    const before = openDescriptors();
    const file = openSync("/etc/hostname", "r");
    expect(() =>
      addon.readPipe(
        file,
        () => {},
        () => {},
      ),
    ).toThrow(/EPERM/);
    expect(openDescriptors()).toEqual(before);
  });
});
