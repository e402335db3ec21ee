import { describe, expect, it } from "vitest";
import { TerminalSizes } from "../../../src/streaming/terminal-sizes.ts";

function told(...pieces: readonly string[]): readonly string[] {
  const sizes = new TerminalSizes();
  const found: string[] = [];
  sizes.onResize(({ columns, rows }) => found.push(`${columns}x${rows}`));
  for (const piece of pieces) sizes.take(Buffer.from(piece));
  return found;
}

describe("sizes of a client's terminal", () => {
  it("are read one behind the other, in whatever pieces they come", () => {
    expect(told('{"Width":80,"Height":24}\n{"Width":81,"Height":25}')).toEqual(["80x24", "81x25"]);
    expect(told('{"Wid', 'th":80,', '"Height":24', "}", '  {"Height":1,"Width":65535}')).toEqual(["80x24", "65535x1"]);
  });

  it("are skipped when they are none", () => {
    const wrong = [
      "{}",
      '{"Width":0,"Height":24}',
      '{"Width":80,"Height":65536}',
      '{"Width":1.5,"Height":24}',
      '{"Width":"80","Height":24}',
      '{"Width":-1,"Height":24}',
      "nonsense}",
      "null}",
      "[1]}",
    ];
    expect(told(...wrong, '{"Width":80,"Height":24}')).toEqual(["80x24"]);
  });

  it("are remembered for whoever comes later", () => {
    const sizes = new TerminalSizes();
    expect(sizes.last()).toBeUndefined();
    sizes.take(Buffer.from('{"Width":80,"Height":24}{"Width":90,"Height":30}'));
    expect(sizes.last()).toEqual({ columns: 90, rows: 30 });
  });

  it("cost no memory when they never end", () => {
    const sizes = new TerminalSizes();
    for (let i = 0; i < 1000; i++) sizes.take(Buffer.alloc(10_000, "{"));
    sizes.take(Buffer.from('}{"Width":80,"Height":24}'));
    expect(sizes.last()).toEqual({ columns: 80, rows: 24 });
  });
});
