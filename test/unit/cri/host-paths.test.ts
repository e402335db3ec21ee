import { describe, expect, it } from "vitest";
import { HostPaths } from "../../../src/cri/host-paths.ts";
import { failure } from "./fake/fake-node.ts";

const never = () => new Promise<string>(() => {});
const answer = async () => "there";

describe("looks at host paths", () => {
  it("give up on a path that does not answer, and refuse it at once from then on", async () => {
    const paths = new HostPaths({ slots: 2, patienceMs: 10 });
    const hung = Promise.withResolvers<string>();
    const first = failure(paths.look("/hung", () => hung.promise));
    expect(await paths.look("/good", answer)).toBe("there");
    expect(await first).toMatchObject({
      code: "unavailable",
      message: "host path /hung does not answer: see to its file server or disk",
    });
    let asked = false;
    const again = paths.look("/hung", async () => {
      asked = true;
    });
    expect([await failure(again), asked]).toMatchObject([{ code: "unavailable" }, false]);
    expect(await paths.look("/good", answer)).toBe("there");
    hung.resolve("late");
    await hung.promise;
    await new Promise((resolve) => setTimeout(resolve, 1));
    expect(await paths.look("/hung", answer)).toBe("there");
  });

  it("keep no more threads than they may, and say whose silence it is", async () => {
    const paths = new HostPaths({ slots: 2, patienceMs: 10 });
    const looks = ["/a", "/b", "/c"].map((path) => failure(paths.look(path, never)));
    for (const look of looks) expect(await look).toMatchObject({ code: "unavailable" });
    const next = await failure(paths.look("/good", answer));
    expect(next).toMatchObject({ code: "unavailable", message: expect.stringContaining("neither do /a, /b") });
  });

  it("wait for their turn while those before them answer", async () => {
    const paths = new HostPaths({ slots: 1, patienceMs: 10_000 });
    const order: number[] = [];
    const looks = [1, 2, 3].map((each) =>
      paths.look(`/${each}`, async () => {
        await Promise.resolve();
        order.push(each);
      }),
    );
    await Promise.all(looks);
    expect(order).toEqual([1, 2, 3]);
  });

  it("tell the errors of the path itself", async () => {
    const paths = new HostPaths({ slots: 1, patienceMs: 1000 });
    await expect(paths.look("/x", () => Promise.reject(new Error("EACCES")))).rejects.toThrow("EACCES");
    expect(await paths.look("/x", answer)).toBe("there");
  });
});
