import { join } from "node:path";
import type { Command } from "../command.ts";
import { loadContainer } from "./loaded.ts";
import { NotifySocket } from "./notify-socket.ts";

export const start: Command = {
  name: "start",
  arguments: "ID",
  summary: "let the process of a created container run",
  details: "With NOTIFY_SOCKET set, here and at create, it returns when the container has said that it is ready, or has ended.",
  arity: [1, 1],
  flags: {},
  local: true,
  async run(context) {
    using container = await loadContainer(context);
    using notify = NotifySocket.open(join(context.place.root, container.id), context.warn);
    await container.exec();
    await notify?.forward(container, container.state().init_process_pid);
    return 0;
  },
};
