import { describe, expect, it } from "vitest";
import {
  type DbusMessage,
  dbusMessageSize,
  decodeDbusMessage,
  encodeDbusMessage,
  messageType,
} from "../../../../src/lib/dbus/message.ts";
import { parseSignature } from "../../../../src/lib/dbus/signature.ts";

/** What busctl sends for StartTransientUnit with four properties and one auxiliary unit. */
const fromBusctl = Buffer.from(
  "6c010401b200000002000000b600000001016f00190000002f6f72672f667265656465736b746f702f73797374656d6431000000000000000301730012000000" +
    "53746172745472616e7369656e74556e697400000000000002017300200000006f72672e667265656465736b746f702e73797374656d64312e4d616e61676572" +
    "000000000000000006017300180000006f72672e667265656465736b746f702e73797374656d6431000000000000000008016700107373612873762961287361" +
    "287376292900000007000000782e73636f706500070000007265706c616365006a0000000000000004000000504944730002617500000000040000002a000000" +
    "0800000044656c6567617465000162000100000000000000090000004d656d6f72794d6178000174000000000000000000000004000000000b000000416c6c6f" +
    "77656443505573000261790002000000030100002200000007000000792e73636f70650012000000010000004100017300000000010000006200",
  "hex",
);
const startBody = [
  "x.scope",
  "replace",
  [
    ["PIDs", { signature: "au", value: [42] }],
    ["Delegate", { signature: "b", value: true }],
    ["MemoryMax", { signature: "t", value: 64n << 20n }],
    ["AllowedCPUs", { signature: "ay", value: Buffer.from([3, 1]) }],
  ],
  [["y.scope", [["A", { signature: "s", value: "b" }]]]],
];
/** What libdbus sends for one argument of each type, with a variant. */
const fromLibdbus = Buffer.from(
  "6c01000164000000020000005700000001016f00020000002f6f0000000000000201730003000000612e62000000000003017300010000004300000000000000" +
    "0601730003000000612e62000000000008016700116e716978746479626f6173617b73757d760000feff0700fdfffffffcffffffffffffff0500000000000000" +
    "000000000000f83f0900000001000000040000002f782f79000000000f000000010000006100000002000000626300000c00000000000000010000006b000000" +
    "0100000001690000ffffffff",
  "hex",
);
const everyType = [-2, 7, -3, -4n, 5n, 1.5, 9, true, "/x/y", ["a", "bc"], [["k", 1]], { signature: "i", value: -1 }];
const none = { path: "", interface: "", member: "", errorName: "", replySerial: 0, destination: "", sender: "", signature: "" };
const helloTo = {
  ...none,
  path: "/org/freedesktop/DBus",
  destination: "org.freedesktop.DBus",
  interface: "org.freedesktop.DBus",
};
const bodyOf = (bytes: Buffer): Buffer => bytes.subarray(bytes.length - bytes.readUInt32LE(4));

describe("a message", () => {
  it("is written as the specification has it", () => {
    const bytes = encodeDbusMessage({ ...helloTo, member: "Hello", type: messageType.call, serial: 1, body: [] });
    expect(bytes.toString("hex")).toBe(
      "6c01000100000000010000006d00000001016f00150000002f6f72672f667265656465736b746f702f44427573000000" +
        "02017300140000006f72672e667265656465736b746f702e4442757300000000" +
        "030173000500000048656c6c6f000000" +
        "06017300140000006f72672e667265656465736b746f702e4442757300000000",
    );
  });

  it("has the body that other clients send for the same values", () => {
    const start = { ...none, path: "/a", member: "B", type: messageType.call, serial: 2 };
    const written = encodeDbusMessage({ ...start, signature: "ssa(sv)a(sa(sv))", body: startBody });
    expect(bodyOf(written).toString("hex")).toBe(bodyOf(fromBusctl).toString("hex"));
    const types = encodeDbusMessage({ ...start, signature: "nqixtdyboasa{su}v", body: everyType });
    expect(bodyOf(types).toString("hex")).toBe(bodyOf(fromLibdbus).toString("hex"));
  });

  it("is read as other clients write it", () => {
    expect(decodeDbusMessage(fromBusctl)).toEqual({
      ...none,
      type: messageType.call,
      serial: 2,
      path: "/org/freedesktop/systemd1",
      interface: "org.freedesktop.systemd1.Manager",
      member: "StartTransientUnit",
      destination: "org.freedesktop.systemd1",
      signature: "ssa(sv)a(sa(sv))",
      body: startBody,
    });
    expect(decodeDbusMessage(fromLibdbus).body).toEqual(everyType);
  });

  it("is read from peers of the other byte order", () => {
    const bytes = Buffer.from(
      "42020001" + "00000004" + "00000005" + "0000000f" + "05017500" + "00000003" + "08016700" + "01690000" + "fffffffe",
      "hex",
    );
    expect(decodeDbusMessage(bytes)).toMatchObject({ type: messageType.reply, serial: 5, replySerial: 3, body: [-2] });
  });

  it("tells its size by its first 16 bytes", () => {
    expect(dbusMessageSize(fromBusctl.subarray(0, 15))).toBeUndefined();
    expect(dbusMessageSize(fromBusctl.subarray(0, 16))).toBe(fromBusctl.length);
  });

  it("keeps numbers at their limits and text of any script", () => {
    const signature = "ynqiuxtsas";
    const body = [255, -32768, 65535, -(2 ** 31), 2 ** 32 - 1, -(1n << 63n), (1n << 64n) - 1n, "größe 漢字", []];
    const bytes = encodeDbusMessage({ ...none, type: messageType.signal, serial: 9, path: "/", member: "M", signature, body });
    expect(decodeDbusMessage(bytes).body).toEqual(body);
  });
});

describe("values that do not fit", () => {
  it.each([
    ["y", 256],
    ["y", -1],
    ["n", 40_000],
    ["u", -1],
    ["t", 1n << 64n],
    ["s", "a\0b"],
    ["s", "\ud800"],
    ["o", "no/path"],
    ["o", "/a//b"],
    ["(ss)", ["only one"]],
    ["v", { signature: "ss", value: "two types" }],
  ])("%s is refused", (signature, value) => {
    expect(() => encodeDbusMessage({ ...none, type: 1, serial: 1, signature, body: [value as never] })).toThrow();
  });
});

describe("malformed input", () => {
  const changed = (at: number, ...bytes: number[]): Buffer => {
    const copy = Buffer.from(fromBusctl);
    copy.set(bytes, at);
    return copy;
  };

  it.each([
    ["a byte order that is none", changed(0, 0x78)],
    ["another protocol version", changed(3, 2)],
    ["no serial", changed(8, 0, 0, 0, 0)],
    ["a body longer than it is", changed(4, 0xff)],
    ["an array longer than its message", changed(12, 0xff, 0xff)],
    ["a header field of another type", changed(18, 0x73)],
    ["padding that is not zero", changed(46, 1)],
    ["text without its end", changed(45, 1)],
    ["a signature that is none", changed(201, 0x7a)],
  ])("%s is refused", (_what, bytes) => {
    expect(() => decodeDbusMessage(bytes)).toThrow();
  });

  it("refuses a message of unlikely size before it has arrived", () => {
    expect(() => dbusMessageSize(changed(4, 0xff, 0xff, 0xff, 0x7f))).toThrow(/more than anybody/);
  });

  it("never does anything else than read or refuse, whichever byte is wrong or missing", () => {
    for (const whole of [fromBusctl, fromLibdbus]) {
      for (let at = 0; at < whole.length; at++) {
        for (const value of [0, 1, 0x7f, 0x80, 0xff, whole.readUInt8(at) ^ 1]) {
          const bytes = Buffer.from(whole);
          bytes[at] = value;
          try {
            const message: DbusMessage = decodeDbusMessage(bytes);
            expect(message.serial).toBeGreaterThan(0);
          } catch (error) {
            expect(error).toMatchObject({ name: "RuntimeError", code: "internal" });
          }
        }
        expect(() => decodeDbusMessage(whole.subarray(0, at))).toThrow();
      }
    }
  });

  it.each([
    "a",
    "(",
    "(s",
    "()",
    "a{ss",
    "a{vs}",
    "a{s}",
    "{ss}",
    "z",
    `${"a".repeat(33)}s`,
    `${"(".repeat(33)}s${")".repeat(33)}`,
    "s".repeat(256),
  ])("the signature %j is refused", (signature) => {
    expect(() => parseSignature(signature)).toThrow();
  });

  it("refuses variants without end", () => {
    let value: unknown = { signature: "s", value: "x" };
    for (let depth = 0; depth < 70; depth++) value = { signature: "v", value };
    const bytes = encodeDbusMessage({ ...none, type: 4, serial: 1, signature: "v", body: [value as never] });
    expect(() => decodeDbusMessage(bytes)).toThrow(/nested/);
  });
});
