/** Static test programs for use inside containers, compiled once per run of the tests. */
import { execFileSync } from "node:child_process";
import { mkdirSync, statSync } from "node:fs";
import { join } from "node:path";

const top = join(import.meta.dirname, "../..");

/** Compiles test/fixtures/NAME.c statically with musl; returns the path of the program. */
export function compileFixture(name: string): string {
  const source = join(top, "test/fixtures", `${name}.c`);
  const directory = join(top, "build/fixtures");
  const program = join(directory, name);
  mkdirSync(directory, { recursive: true });
  const built = statSync(program, { throwIfNoEntry: false });
  if (built === undefined || built.mtimeMs < statSync(source).mtimeMs) {
    execFileSync("musl-gcc", ["-static", "-O2", "-Wall", "-Werror", "-o", program, source]);
  }
  return program;
}
