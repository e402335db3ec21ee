import { expect, it } from "vitest";
import { SharedTasks } from "../../../src/image/shared-task.ts";
import { Slots } from "../../../src/image/slots.ts";

const never = new AbortController().signal;

it("runs once for all who ask at the same time, and anew for who comes later", async () => {
  const tasks = new SharedTasks<number>();
  let runs = 0;
  const work = async (): Promise<number> => {
    await new Promise((resolve) => setTimeout(resolve, 5));
    return ++runs;
  };
  expect(await Promise.all([tasks.run("a", never, work), tasks.run("a", never, work), tasks.run("b", never, work)])).toEqual([
    1, 1, 2,
  ]);
  expect(await tasks.run("a", never, work)).toBe(3);
});

it("stops when the last caller has gone, not before, and lets it wait for the clean-up", async () => {
  const tasks = new SharedTasks<void>();
  const events: string[] = [];
  const work = async (signal: AbortSignal): Promise<void> => {
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    events.push("stopping");
    await new Promise((resolve) => setTimeout(resolve, 10));
    events.push("clean");
    signal.throwIfAborted();
  };
  const [one, two] = [new AbortController(), new AbortController()];
  const first = tasks.run("k", one.signal, work);
  const second = tasks.run("k", two.signal, work);
  one.abort(new Error("one left"));
  await expect(first).rejects.toThrow("one left");
  expect(events).toEqual([]);
  two.abort(new Error("two left"));
  await expect(second).rejects.toThrow("two left");
  expect(events).toEqual(["stopping", "clean"]);
});

it("gives every waiter the failure, and a caller whose signal has fired nothing to do", async () => {
  const tasks = new SharedTasks<void>();
  const fail = async (): Promise<void> => {
    throw new Error("no");
  };
  await expect(Promise.all([tasks.run("k", never, fail), tasks.run("k", never, fail)])).rejects.toThrow("no");
  await expect(tasks.run("k", AbortSignal.abort(new Error("gone")), fail)).rejects.toThrow("gone");
});

it("slots bound how much runs at once, in order", async () => {
  const slots = new Slots(2);
  let [running, most] = [0, 0];
  const order: number[] = [];
  await Promise.all(
    [0, 1, 2, 3, 4].map((i) =>
      slots.run(never, async () => {
        order.push(i);
        most = Math.max(most, ++running);
        await new Promise((resolve) => setTimeout(resolve, 3));
        running--;
      }),
    ),
  );
  expect(most).toBe(2);
  expect(order).toEqual([0, 1, 2, 3, 4]);
});
