import type { Command } from "./command.ts";
import { ago, json, table } from "./text.ts";

const ms = (ns: bigint): string => `${(Number(ns) / 1e6).toFixed(1)} ms`;

export const status: Command = {
  name: "status",
  arguments: "",
  summary: "show the daemon's health and what the machine lacks",
  details:
    "Exit code 0 when the runtime is ready (a network that is not ready is shown, host-network pods run without it), else 2.",
  arity: [0, 0],
  flags: {},
  async run({ connection, json: asJson, print }) {
    const c = connection();
    const info = await c.call(c.node, c.node.info, {});
    const cri = info.ready ? await c.call(c.runtime, c.runtime.status, { verbose: false }) : undefined;
    const conditions = cri?.status?.conditions ?? [];
    const well = conditions.some(({ type, status: holds }) => type === "RuntimeReady" && holds);
    if (asJson) {
      print(json({ info, status: cri?.status, runtimeHandlers: cri?.runtimeHandlers, features: cri?.features }));
      return well ? 0 : 2;
    }
    print(`caissond ${info.version}, pid ${info.pid}, up ${ago(info.startedAt)}, cgroup ${info.cgroupVersion || "unknown"}`);
    print(`root ${info.rootDir}, state ${info.stateDir}, socket ${info.socket}`);
    print(`event loop delay p50 ${ms(info.loopDelayP50)}, p99 ${ms(info.loopDelayP99)}, most ${ms(info.loopDelayMax)}`);
    if (info.databaseRebuilt !== "") print(`database made anew at this start: ${info.databaseRebuilt}`);
    if (!info.ready) print("not ready: records and pods are being read back");
    const rows = conditions.map((d) => [d.type, d.status ? "yes" : "no", d.reason, d.message]);
    if (rows.length > 0) print(table(["CONDITION", "HOLDS", "REASON", "MESSAGE"], rows));
    for (const limitation of info.limitations) print(`limitation: ${limitation}`);
    return well ? 0 : 2;
  },
};
