/** Attackers that are containers themselves: what further processes of the library bring along while they enter. */
import { copyFileSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Container } from "../../src/core/library/public.ts";
import { compileFixture } from "../helpers/compile.ts";
import { LibraryPlace, shell, until } from "../helpers/library-place.ts";
import type { Scenario } from "./scenarios.ts";

async function attacker(place: LibraryPlace, capability: string, args: readonly string[]) {
  const capabilities = { bounding: [capability], effective: [capability], permitted: [capability] };
  const container = await place.create({ capabilities });
  const process = shell("", { args, capabilities, stdout: "pipe" });
  let said = "";
  await container.run(process);
  process.stdout?.on("data", (chunk: Buffer) => {
    said += chunk.toString();
  });
  return { container, said: () => said };
}
async function end(container: Container): Promise<void> {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
}

export class Living implements AsyncDisposable {
  readonly #place = new LibraryPlace();
  readonly #program = join(import.meta.dirname, "../../build/native/caisson-shim");
  readonly #image = readFileSync(this.#program);

  constructor(swap: string) {
    copyFileSync(swap, join(this.#place.rootfs, "bin/swap"));
    copyFileSync(compileFixture("attacker"), join(this.#place.rootfs, "bin/attacker"));
  }

  /** A container that mounts over its own /proc and takes that away again, while processes with an oom score of their own enter. */
  async coveredProc(work: (scenario: Scenario, swaps: () => bigint) => Promise<void>): Promise<void> {
    const counter = join(this.#place.rootfs, "data/count");
    const { container } = await attacker(this.#place, "CAP_SYS_ADMIN", ["swap", "/data/count", "-m", "/proc"]);
    await until(() => existsSync(counter) && readFileSync(counter).length === 8);
    let score = 100;
    const attempt = async (): Promise<boolean> => {
      const process = shell("read x", { stdin: "pipe", oomScoreAdj: ++score % 900 });
      await container.exec(process);
      const real = readFileSync(`/proc/${process.pid}/oom_score_adj`, "utf8").trim();
      process.stdin?.end();
      await process.wait();
      if (real !== `${score % 900}`) throw new Error(`oom_score_adj is ${real} instead of ${score % 900}`);
      return true;
    };
    await work({ name: "CVE-2025-52881 CVE-2019-16884: writes to a procfs that is being covered", swap: [], attempt }, () =>
      readFileSync(counter).readBigUInt64LE(),
    );
    await end(container);
  }

  /** A container that looks at every other process as early and as often as it can, and tries to write its program. */
  async watchedExecs(work: (scenario: Scenario, swaps: () => bigint) => Promise<void>): Promise<void> {
    const { container, said } = await attacker(this.#place, "CAP_SYS_PTRACE", ["attacker", "watch"]);
    await until(() => said().includes("watching"));
    let count = 0;
    const attempt = async (): Promise<boolean> => {
      const args = count++ % 2 === 0 ? ["true"] : ["/proc/self/exe"];
      const process = shell("", { args });
      await container.exec(process).then(
        () => process.wait(),
        () => undefined,
      );
      const foreign = said()
        .split("\n")
        .filter(
          (line) =>
            !/^$|^watching$|^ROUND|^SEEN exe \/(bin\/(busybox|attacker)$|memfd:)|^SEEN cwd \/$|^SEEN fd (\/dev\/null|\/proc)$/.test(
              line,
            ),
        );
      if (foreign.length > 0) throw new Error(`the attacker found ${foreign.join(", ")}`);
      if (!readFileSync(this.#program).equals(this.#image)) throw new Error("the helper's program was changed");
      return true;
    };
    await work(
      {
        name: "CVE-2019-5736 CVE-2016-9962: programs and descriptors of processes that enter",
        swap: [],

        attempt,
      },
      () => BigInt(said().split("\n").length),
    );
    await end(container);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#place[Symbol.asyncDispose]();
  }
}
