import { expect, it } from "vitest";
import { randomHex } from "../../../src/lib/random.ts";

it("gives as many bytes as asked, others each time", () => {
  expect(randomHex(32)).toMatch(/^[0-9a-f]{64}$/);
  expect(new Set(Array.from({ length: 100 }, () => randomHex(16))).size).toBe(100);
});
