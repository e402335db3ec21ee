/** Runs the suite against Debian's containerd with runc, started for the purpose on directories of its own. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startContainerd } from "../bench/containerd.ts";
import { buildBusyboxImage } from "../helpers/oci-image.ts";
import { pushImage, startRegistry } from "../helpers/registry.ts";
import { Bridge } from "./bridge.ts";

const scratch = mkdtempSync(join(tmpdir(), "caisson-conformance-"));
const stack = new AsyncDisposableStack();
stack.defer(() => rmSync(scratch, { recursive: true, force: true }));
try {
  const registry = await startRegistry();
  stack.defer(() => registry.stop());
  const image = buildBusyboxImage(join(scratch, "pause"), { config: { Cmd: ["/bin/sleep", "100000"] } });
  const pause = await pushImage(registry, "conformance/pause", "1", image);
  const bridge = stack.use(new Bridge());
  const rival = stack.use(await startContainerd("/usr/bin/runc", pause, { hostMounts: true }));
  bridge.configureIn(rival.cniConf);
  for (let ready = false; !ready; await new Promise((resolve) => setTimeout(resolve, 100))) {
    const { status } = await rival.client.runtime("Status", {});
    ready = status.conditions.every((condition: { status: boolean }) => condition.status);
  }
  const vitest = [
    "node_modules/vitest/vitest.mjs",
    "run",
    "--project",
    "conformance",
    "--reporter=verbose",
    ...process.argv.slice(2),
  ];
  const suite = spawn(process.execPath, vitest, {
    stdio: "inherit",
    env: { ...process.env, CAISSON_CRI_ENDPOINT: rival.address },
  });
  const [code] = await once(suite, "exit");
  process.exitCode = code ?? 1;
} finally {
  await stack.disposeAsync();
}
