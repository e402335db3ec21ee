/** Resources that only cgroup v2 has, or has otherwise, in containers of the library. test/integration/library-resources.test.ts has v1. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { afterAll, it } from "vitest";
import { allowedDevices, type Config, type Container, type Resources } from "../../src/core/library/public.ts";
import { LibraryPlace, shell } from "../helpers/library-place.ts";

const place = new LibraryPlace();
afterAll(async () => await place[Symbol.asyncDispose]());
const limited = (resources: Resources): Partial<Config> => ({
  cgroups: { path: `${place.cgroup}/${place.newId()}`, resources: { devices: allowedDevices, ...resources } },
});
const read = (container: Container, file: string): string =>
  readFileSync(`${container.state().cgroup_paths[""]}/${file}`, "utf8").trim();
const end = async (container: Container): Promise<void> => {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
};

it("library: burst, weights, throttles and unified values are in force on v2 #cpu-burst #io-weight #io-throttle #unified", async () => {
  const disk = readdirSync("/sys/block").find((name) => name.startsWith("vd"));
  const [major = 0, minor = 0] = readFileSync(`/sys/block/${disk}/dev`, "utf8").trim().split(":").map(Number);
  const container = await place.sleeping(
    limited({
      cpu: { quota: 50_000, period: 100_000, burst: 20_000 },
      blockIO: {
        weight: 100,
        throttleReadBpsDevice: [{ major, minor, rate: 1_048_576 }],
        throttleWriteIOPSDevice: [{ major, minor, rate: 9 }],
      },
      unified: { "memory.high": "100000000", "cgroup.max.depth": "3" },
    }),
  );
  assert.equal(read(container, "cpu.max.burst"), "20000");
  assert.match(read(container, "io.max"), new RegExp(`^${major}:${minor} rbps=1048576 wbps=max riops=max wiops=9$`));
  assert.match(read(container, "io.weight"), /^default 910$/m);
  assert.equal(read(container, "cgroup.max.depth"), "3");
  await end(container);
  const idle = await place.sleeping(limited({ cpu: { idle: 1 } }));
  assert.equal(read(idle, "cpu.idle"), "1");
  await end(idle);
});

it("library: a limit that is checked before is refused below what is in use #memory-check", async () => {
  const container = await place.sleeping(limited({ memory: { limit: 64 << 20 } }));
  const config = container.config();
  const resources = { memory: { limit: 4096, checkBeforeUpdate: true } };
  await assert.rejects(
    container.set({ ...config, cgroups: { ...config.cgroups, resources } }),
    /rejecting memory limit 4096 <= usage/,
  );
  assert.equal(read(container, "memory.max"), String(64 << 20));
  await end(container);
});

it("library: what only v1 has is refused by name on v2", async () => {
  const cases: readonly (readonly [Resources, RegExp])[] = [
    [{ memory: { swappiness: 5 } }, /memory\.swappiness cannot be set: only cgroup v1 has it/],
    [{ memory: { disableOOMKiller: true } }, /memory\.disableOOMKiller cannot be set/],
    [{ memory: { kernelTCP: 1 << 20 } }, /memory\.kernelTCP cannot be set/],
    [{ cpu: { realtimeRuntime: 5 } }, /cpu\.realtimeRuntime cannot be set/],
    [{ blockIO: { leafWeight: 50 } }, /blockIO\.leafWeight cannot be set/],
    [{ network: { classID: 1 } }, /no cgroup controller net_cls/],
    [{ rdma: { nothere: { hcaHandles: 1 } } }, /rdma\.max/],
  ];
  for (const [resources, message] of cases) {
    const container = await place.create(limited(resources));
    await assert.rejects(container.run(shell("true")), message);
    await container.destroy();
  }
});
