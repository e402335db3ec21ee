/**
 * A plugin in a process of its own: connected by descriptor, it writes what it is called for into the file that its configuration names,
 * with the word "pid" behind it also what it is. While there is FILE.die it ends in the middle of the call that is named in it, once.
 */
import { appendFileSync, existsSync, readFileSync, rmSync } from "node:fs";
import { Socket } from "node:net";
import { NriPlugin, type Request } from "./nri-plugin.ts";

let log = "";
const note = (method: string, { pod, container }: Request): void => {
  const who = container?.name || pod?.name || "";
  appendFileSync(log, `${method} ${who}\n`);
};
const ofPod = ["RunPodSandbox", "UpdatePodSandbox", "PostUpdatePodSandbox", "StopPodSandbox", "RemovePodSandbox"];
const ofContainer = ["Create", "PostCreate", "Start", "PostStart", "Update", "PostUpdate", "Stop", "Remove"].map(
  (verb) => `${verb}Container`,
);
const handlers = Object.fromEntries(
  ["Synchronize", ...ofPod, ...ofContainer, "Shutdown"].map((method) => [
    method,
    (request: Request) => {
      if (existsSync(`${log}.die`) && readFileSync(`${log}.die`, "utf8") === method) {
        rmSync(`${log}.die`);
        process.exit(3);
      }
      note(method, request);
      return {};
    },
  ]),
);
const plugin = new NriPlugin(new Socket({ fd: Number(process.env["NRI_PLUGIN_SOCKET"]) }), {
  name: process.env["NRI_PLUGIN_NAME"] ?? "",
  index: process.env["NRI_PLUGIN_IDX"] ?? "",
  handlers: {
    ...handlers,
    Configure: ({ config = "" }) => {
      const [file = "", word] = config.trim().split(" ");
      log = file;
      if (word === "pid") appendFileSync(log, `pid ${process.pid}\n`);
      // All but the validation, which it does not have.
      return { events: 0x1fff };
    },
  },
});
await plugin.register();
