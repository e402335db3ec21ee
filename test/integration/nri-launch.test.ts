/** Plugins that the daemon starts: what becomes of them, and of the pods that need them, when they end. */
import { chmodSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { failure, grpcStatus } from "../helpers/cri-client.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";
import { NriNode, until } from "../helpers/nri-node.ts";

let before: Inventory;
let nri: NriNode;

const program = join(import.meta.dirname, "../helpers/nri-plugin-process.ts");
const witness = `#!/bin/sh\nexec ${process.execPath} ${program}\n`;

beforeAll(async () => {
  before = takeInventory();
  nri = await NriNode.start(
    ['required = ["keeper"]', "registration_timeout_ms = 60000", "request_timeout_ms = 20000"],
    (area) => {
      writeFileSync(join(area, "plugins/05-keeper"), witness, { mode: 0o755 });
      writeFileSync(join(area, "conf.d/keeper.conf"), `${join(area, "keeper.log")} pid\n`);
      writeFileSync(join(area, "plugins/07-crash"), "#!/bin/sh\nexit 3\n", { mode: 0o755 });
      writeFileSync(join(area, "conf.d/07-crash.conf"), `${join(area, "crash.log")}\n`);
    },
  );
});
afterAll(async () => {
  await nri[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});

const keeperLog = (): string => readFileSync(join(nri.area, "keeper.log"), "utf8");
const lives = (): number[] => [...keeperLog().matchAll(/^pid (\d+)$/gm)].map(([, pid]) => Number(pid));
const connections = (name: string): number =>
  nri.node.daemon.log().split(`"${name}","msg":"an NRI plugin is connected"`).length - 1;

it("starts a plugin again that was killed; pods that need it are refused meanwhile", async () => {
  await nri.inPod(async (podId, pod) => {
    const id = await nri.node.run(podId, pod, nri.sleeper());
    const [first = 0, ...others] = lives();
    expect(others).toEqual([]);
    process.kill(first, "SIGKILL");
    await until(() =>
      nri.node.daemon.log().includes("05-keeper does not run: it was ended by signal 9; it is started again in 1000 ms"),
    );
    const { code, details } = await failure(nri.inPod(async () => {}));
    expect([code, details]).toEqual([
      grpcStatus.UNAVAILABLE,
      expect.stringContaining("required NRI plugin keeper is not connected"),
    ]);
    await until(() => connections("05-keeper") === 2);
    // It was told of what there is, and has its say again.
    expect(keeperLog().split("Synchronize").length - 1).toBe(2);
    await nri.inPod(async () => {});
    expect(await nri.shell(id, "echo untouched")).toBe("untouched");
  });
});

it("fails a container closed in whose making a required plugin dies, and makes it when that is back", async () => {
  await nri.inPod(async (podId, pod) => {
    const container = nri.sleeper();
    writeFileSync(join(nri.area, "keeper.log.die"), "CreateContainer");
    const { code, details } = await failure(nri.create(podId, pod, container));
    expect(code).toBe(grpcStatus.UNAVAILABLE);
    expect(details).toContain(
      "required NRI plugin 05-keeper did not carry out CreateContainer: the plugin has closed the connection",
    );
    expect((await nri.node.client.runtime("ListContainers", { filter: { pod_sandbox_id: podId } })).containers).toEqual([]);
    await until(() => connections("05-keeper") === 3);
    await nri.node.run(podId, pod, container);
    expect(nri.node.daemon.log()).toContain("05-keeper does not run: it has ended with exit code 3; it is started again in");
  });
});

it("pauses longer and longer for one that ends at once, takes it when it is mended, and lets it go with its file", async () => {
  const path = join(nri.area, "plugins/07-crash");
  for (const pause of [1000, 2000]) {
    await until(() =>
      nri.node.daemon.log().includes(`07-crash does not run: it has ended with exit code 3; it is started again in ${pause} ms`),
    );
  }
  writeFileSync(join(nri.area, "mended"), witness);
  chmodSync(join(nri.area, "mended"), 0o755);
  renameSync(join(nri.area, "mended"), path);
  await until(() => connections("07-crash") === 1);
  writeFileSync(join(nri.area, "crash.log.die"), "RunPodSandbox");
  rmSync(path);
  // Nobody requires it: the pod goes on.
  await nri.inPod(async () => {});
  await until(() => nri.node.daemon.log().includes("07-crash is not there any more: it is not started again"));
});

it("tells plugins when the daemon stops, and waits for those that do not answer no longer than a moment", async () => {
  const silent = await nri.join("silent", { Shutdown: () => "never" });
  await nri.node.daemon.stop();
  expect(silent.methods()).toContain("Shutdown");
  expect(keeperLog().trimEnd().split("\n").at(-1)).toBe("Shutdown");
  await nri.node.daemon.launch();
});
