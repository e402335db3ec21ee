import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Deadline, orAborted } from "../../../src/cri/abort.ts";
import { Operations } from "../../../src/cri/operations.ts";
import { TeardownRetries } from "../../../src/cri/teardown-retries.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import { failure, quiet, until } from "./fake/fake-node.ts";

const gone = new RuntimeError("canceled", "caller gone");
const never = new AbortController().signal;
const unhandled: unknown[] = [];
const note = (reason: unknown): void => void unhandled.push(reason);
beforeEach(() => process.on("unhandledRejection", note));
afterEach(async () => {
  await new Promise((resolve) => setImmediate(resolve));
  process.off("unhandledRejection", note);
  expect(unhandled.splice(0)).toEqual([]);
});

describe("waiting for work", () => {
  it("gives its result or its error", async () => {
    expect(await orAborted(Promise.resolve(1), never)).toBe(1);
    expect(await failure(orAborted(Promise.reject(new RuntimeError("not_found", "no")), never))).toMatchObject({
      code: "not_found",
    });
  });

  it("ends with the signal's reason, and a later failure of the work harms nobody", async () => {
    const caller = new AbortController();
    const { promise, reject } = Promise.withResolvers<never>();
    const waiting = failure(orAborted(promise, caller.signal));
    caller.abort(gone);
    expect(await waiting).toMatchObject({ code: "canceled" });
    reject(new Error("late"));
  });

  it("ends at once for a caller that has gone, and a failure of the work harms nobody", async () => {
    const work = new Promise<never>((_, reject) => setTimeout(() => reject(new Error("late")), 1));
    expect(await failure(orAborted(work, AbortSignal.abort(gone)))).toMatchObject({ code: "canceled" });
    await new Promise((resolve) => setTimeout(resolve, 5));
  });
});

describe("a deadline", () => {
  it("fires with its own reason, or with the other signal's", async () => {
    using short = new Deadline("waiting", 1, never);
    await until(() => short.signal.aborted, "fired");
    expect(short.signal.reason).toMatchObject({ code: "deadline_exceeded" });
    using long = new Deadline("waiting", 60_000, AbortSignal.abort(gone));
    expect(long.signal.reason).toBe(gone);
  });
});

describe("operations", () => {
  it("tell the deadline when what it aborted fails in words of its own", async () => {
    const operations = new Operations(never, quiet);
    const work = (signal: AbortSignal) =>
      new Promise<void>((_, reject) => signal.addEventListener("abort", () => reject(new Error("AbortError"))));
    expect(await failure(operations.run("making it", 1, work))).toEqual({
      code: "deadline_exceeded",
      message: "making it took longer than 0.001 s",
    });
  });

  it("go on without their caller, and can be waited for", async () => {
    const operations = new Operations(never, quiet);
    const { promise, resolve } = Promise.withResolvers<void>();
    const caller = new AbortController();
    let ended = false;
    const first = failure(
      operations.runFor(caller.signal, "it", 60_000, async () => {
        await promise;
        ended = true;
        throw new Error("unseen");
      }),
    );
    caller.abort(gone);
    expect(await first).toMatchObject({ code: "canceled" });
    resolve();
    await operations.settled();
    expect(ended).toBe(true);
  });

  it("do not begin once the daemon stops", async () => {
    const operations = new Operations(AbortSignal.abort(new RuntimeError("unavailable", "stopping")), quiet);
    expect(await failure(operations.run("it", 1000, async () => 1))).toMatchObject({ code: "unavailable" });
  });
});

describe("teardowns", () => {
  it("of one pod are shared", async () => {
    let runs = 0;
    const { promise, resolve } = Promise.withResolvers<void>();
    const retries = new TeardownRetries(async () => {
      runs++;
      await promise;
    }, quiet);
    const both = [retries.run("a"), retries.run("a")];
    resolve();
    await Promise.all(both);
    expect(runs).toBe(1);
    retries.close();
  });

  it("that fail are pending until one succeeds", async () => {
    let broken = true;
    const retries = new TeardownRetries(async () => {
      if (broken) throw new RuntimeError("internal", "busy");
    }, quiet);
    expect(await failure(retries.run("a"))).toMatchObject({ message: "busy" });
    expect(retries.pending()).toEqual(["a"]);
    broken = false;
    await retries.run("a");
    expect(retries.pending()).toEqual([]);
    retries.close();
  });
});
