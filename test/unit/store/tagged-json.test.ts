import { expect, it } from "vitest";
import { parse, stringify } from "../../../src/store/tagged-json.ts";

const roundTrip = (value: unknown): unknown => parse(stringify(value));

it("keeps bigint exact, also beyond 2^53 and below zero", () => {
  const document = { at: 1_795_432_109_123_456_789n, list: [0n, -1n], deep: { more: 2n ** 80n } };
  expect(roundTrip(document)).toEqual(document);
});

it("keeps bytes", () => {
  const { value } = roundTrip({ value: Buffer.from([0, 255, 10]) }) as { value: Buffer };
  expect([...value]).toEqual([0, 255, 10]);
  expect([...(roundTrip(new Uint8Array([7])) as Buffer)]).toEqual([7]);
});

it.each([
  { $bigint: "12" },
  { $bytes: "AA==" },
  { $$bigint: "12" },
  { annotations: { $bigint: "not a number" } },
  { $bigint: 3n },
  { $bigint: { $bigint: "x" } },
  { $bigint: "1", other: 2n },
  { $other: "x" },
])("gives back a document that looks like a tag: %o", (document) => {
  expect(roundTrip(document)).toEqual(document);
});

it("keeps a label named __proto__ as data", () => {
  const labels = JSON.parse('{"__proto__":"x","a":"b"}');
  expect(Object.entries(roundTrip({ labels }) as object)).toEqual([["labels", labels]]);
  expect(Object.keys((roundTrip({ labels }) as { labels: object }).labels)).toEqual(["__proto__", "a"]);
});
