import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type DbusCall, DbusConnection } from "../../../../src/lib/dbus/connection.ts";
import type { DbusMessage } from "../../../../src/lib/dbus/message.ts";
import { FakeBus } from "../../../helpers/fake-bus.ts";

let bus: FakeBus;
let signals: DbusMessage[];
const opened: DbusConnection[] = [];
beforeEach(async () => {
  bus = await FakeBus.start();
  signals = [];
});
afterEach(async () => {
  for (const connection of opened.splice(0)) connection.close();
  await bus[Symbol.asyncDispose]();
});

async function open(deadlineMs = 2000): Promise<DbusConnection> {
  const connection = await DbusConnection.open({ path: bus.socket, onSignal: (signal) => signals.push(signal), deadlineMs });
  opened.push(connection);
  return connection;
}
const call: DbusCall = { destination: "a.b", path: "/c", interface: "d.e", member: "Ask", signature: "s", body: ["x"] };

describe("a connection to a bus", () => {
  it("says hello first, then asks and is answered", async () => {
    bus.handlers.set("Ask", ({ body }) => ({ signature: "sb", body: [`${String(body[0])}!`, true] }));
    const connection = await open();
    expect(await connection.call(call)).toEqual(["x!", true]);
    expect(bus.names()).toEqual(["Hello", "Ask"]);
    expect(bus.calls[1]).toMatchObject({ destination: "a.b", path: "/c", interface: "d.e" });
  });

  it("gives each of several callers the answer that is theirs", async () => {
    bus.handlers.set("Ask", ({ body }) => ({ signature: "s", body }));
    const connection = await open();
    const answers = await Promise.all(["p", "q", "r"].map((word) => connection.call({ ...call, body: [word] })));
    expect(answers).toEqual([["p"], ["q"], ["r"]]);
  });

  it("makes an error of the peer one of ours, and keeps its name", async () => {
    bus.handlers.set("Ask", () => ({ error: "org.freedesktop.DBus.Error.AccessDenied", signature: "s", body: ["not you"] }));
    await expect((await open()).call(call)).rejects.toMatchObject({
      code: "permission_denied",
      message: "d.e.Ask: not you",
      fields: { dbusError: "org.freedesktop.DBus.Error.AccessDenied" },
    });
  });

  it("passes signals on", async () => {
    const connection = await open();
    bus.signal("Happened", "u", [7]);
    await connection.call(call);
    expect(signals).toMatchObject([{ member: "Happened", body: [7] }]);
  });

  it("does not wait for ever", async () => {
    bus.handlers.set("Ask", () => "silence");
    await expect((await open(50)).call(call)).rejects.toMatchObject({ code: "deadline_exceeded" });
  });

  it("fails what is under way when it is lost, and everything after", async () => {
    bus.handlers.set("Ask", () => "silence");
    const connection = await open();
    const asked = connection.call(call);
    bus.drop();
    await expect(asked).rejects.toMatchObject({ code: "unavailable" });
    expect(connection.connected).toBe(false);
    await expect(connection.call(call)).rejects.toMatchObject({ code: "unavailable" });
  });

  it("ends when the peer does not keep to the protocol", async () => {
    bus.handlers.set("Ask", () => "silence");
    const connection = await open();
    const asked = connection.call(call);
    bus.raw(Buffer.from("this is no message at all"));
    await expect(asked).rejects.toThrow(/malformed/);
    expect(connection.connected).toBe(false);
  });

  it("takes messages in pieces", async () => {
    bus.handlers.set("Ask", () => "silence");
    const connection = await open();
    const asked = connection.call(call);
    const reply = Buffer.from("6c02000105000000070000000f000000050175000200000008016700017300000000000000", "hex");
    // A reply to serial 2 with the empty string.
    for (const byte of reply) {
      bus.raw(Buffer.from([byte]));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await asked).toEqual([""]);
  });

  it("says who refuses it", async () => {
    bus.greeting = "REJECTED KERBEROS";
    await expect(open()).rejects.toMatchObject({ code: "permission_denied" });
    await expect(open()).rejects.toThrow(/refuses us: REJECTED KERBEROS/);
  });

  it("is unavailable where nobody listens", async () => {
    const path = `${bus.socket}-not`;
    await expect(DbusConnection.open({ path, onSignal: () => {}, deadlineMs: 500 })).rejects.toMatchObject({
      code: "unavailable",
    });
  });

  it("gives up a bus that says nothing", async () => {
    bus.handlers.set("Hello", () => "silence");
    await expect(open(50)).rejects.toThrow(/cannot connect to the bus/);
  });
});
