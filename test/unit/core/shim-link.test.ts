import { describe, expect, it, vi } from "vitest";
import type { ContainerExit } from "../../../src/core/runtime.ts";
import type { ShimListeners } from "../../../src/core/shim/events.ts";
import type { ProcessHandle } from "../../../src/core/shim/process-handle.ts";
import type { Shim } from "../../../src/core/shim/shim.ts";
import { type LinkOptions, ShimLink } from "../../../src/core/shim-link.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";

const log = { debug: () => {}, info: () => {}, warn: () => {} };
const told = { id: "c", pid: 1, status: 0, atNs: 2n, startedAtNs: 1n, oomKilled: 0, logDroppedBytes: 0n };
const connectionLost = new RuntimeError("unavailable", "it closed the connection");

/** A shim process that the test ends, and connections that it hands out. */
function played() {
  const ended = Promise.withResolvers<void>();
  const shims: { listeners: ShimListeners; shim: Shim; calls: string[] }[] = [];
  let refuses = false;
  const connect: LinkOptions["connect"] = async (listeners) => {
    if (refuses) throw connectionLost;
    const calls: string[] = [];
    const shim = {
      disconnect: () => calls.push("disconnect"),
      shutdown: async () => {
        calls.push("shutdown");
        ended.resolve();
      },
    } as unknown as Shim;
    shims.push({ listeners, shim, calls });
    return shim;
  };
  const kill = vi.fn(() => ended.resolve());
  const process = {
    identity: { pid: 7, startTicks: 1n },
    ended: ended.promise,
    kill,
    [Symbol.dispose]: () => {},
  } as unknown as ProcessHandle;
  const link = () => ShimLink.connect(process, { podId: "p", connect, log }, AbortSignal.timeout(5000));
  return { link, shims, kill, die: () => ended.resolve(), refuse: (on: boolean) => (refuses = on) };
}

describe("the tie to a shim", () => {
  it("keeps exits for whoever listens first", async () => {
    const play = played();
    const link = await play.link();
    play.shims[0]?.listeners.onExit(told);
    const seen: ContainerExit[] = [];
    link.onExit((exit) => seen.push(exit));
    play.shims[0]?.listeners.onExit({ ...told, id: "d" });
    expect(seen.map(({ containerId }) => containerId)).toEqual(["c", "d"]);
  });

  it("is made again when the connection ends but the shim lives, and requests wait for it", async () => {
    const play = played();
    const link = await play.link();
    play.refuse(true);
    play.shims[0]?.listeners.onLost(connectionLost);
    setTimeout(() => play.refuse(false), 120);
    expect(await link.shim()).toBe(play.shims[1]?.shim);
    expect(play.shims).toHaveLength(2);
  });

  it("is lost with the process, once, and says so", async () => {
    const play = played();
    const link = await play.link();
    const lost = vi.fn();
    link.onLost(lost);
    play.shims[0]?.listeners.onLost(connectionLost);
    play.die();
    await vi.waitFor(() => expect(lost).toHaveBeenCalledTimes(1));
    await expect(link.shim()).rejects.toMatchObject({ code: "unavailable", message: expect.stringMatching(/has ended/) });
    const late = vi.fn();
    link.onLost(late);
    await vi.waitFor(() => expect(late).toHaveBeenCalledTimes(1));
  });

  it("is not lost when its end was asked for", async () => {
    const play = played();
    const link = await play.link();
    const lost = vi.fn();
    link.onLost(lost);
    await link.end(AbortSignal.timeout(5000));
    await link.end(AbortSignal.timeout(5000));
    expect(play.shims[0]?.calls).toEqual(["shutdown", "disconnect"]);
    expect(lost).not.toHaveBeenCalled();
    expect(play.kill).not.toHaveBeenCalled();
  });

  it("kills a shim that does not answer when it shall end", async () => {
    const play = played();
    const link = await play.link();
    const [first] = play.shims;
    if (first !== undefined) Object.assign(first.shim, { shutdown: () => Promise.reject(connectionLost) });
    await link.end(AbortSignal.timeout(5000));
    expect(play.kill).toHaveBeenCalledWith(9);
  });

  it("lets go without ending anything", async () => {
    const play = played();
    const link = await play.link();
    link.disconnect();
    expect(play.shims[0]?.calls).toEqual(["disconnect"]);
    await expect(link.shim()).rejects.toThrow(/is not connected/);
  });
});
