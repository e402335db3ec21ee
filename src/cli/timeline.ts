import type { Command } from "./command.ts";
import { json, moment, table } from "./text.ts";

export const timeline: Command = {
  name: "timeline",
  arguments: "ID",
  summary: "show what happened to a pod or container, step by step",
  details: "ID is an id or an unambiguous prefix of one. Objects that have been removed are remembered for a while.",
  arity: [1, 1],
  flags: {},
  async run({ connection, args: [id = ""], json: asJson, print }) {
    const c = connection();
    const reply = await c.call(c.node, c.node.timeline, { objectId: id });
    if (asJson) {
      print(json(reply));
      return 0;
    }
    print(reply.objectId);
    let before = reply.events[0]?.at ?? 0n;
    const rows = reply.events.map((event) => {
      const since = `+${(Number(event.at - before) / 1e6).toFixed(1)} ms`;
      before = event.at;
      const detail = Object.entries(event.detail).map(([name, value]) => `${name}=${value}`);
      return [String(event.sequence), moment(event.at), since, event.kind, detail.join(" ")];
    });
    print(table(["NUMBER", "AT", "SINCE LAST", "WHAT", "DETAIL"], rows));
    return 0;
  },
};
