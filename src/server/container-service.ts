import { attachToContainer } from "../containers/container-attach.ts";
import { followEvents } from "../containers/container-events.ts";
import { execInContainer } from "../containers/container-exec.ts";
import { exitReply } from "../containers/container-replies.ts";
import { followStats } from "../containers/container-stats.ts";
import {
  checkpointContainer,
  createContainer,
  destroyContainer,
  restoreContainer,
  setContainer,
  startContainer,
  stateOfContainer,
} from "../containers/container-verbs.ts";
import type { LibraryContainers } from "../containers/library-containers.ts";
import type { Container } from "../core/library/public.ts";
import { type ContainerServiceServer, ContainerServiceService } from "../gen/caisson/v1/container.ts";
import { RuntimeError } from "../lib/errors.ts";
import { bidiStream } from "./bidi-stream.ts";
import type { Gate } from "./call.ts";
import type { Service } from "./grpc-server.ts";
import { serverStream } from "./server-stream.ts";
import { unary } from "./unary.ts";

/** caisson.v1.ContainerService: which verb answers which call. `containers` is there once the gate is open. */
export function containerService(gate: Gate, containers: () => LibraryContainers): Service {
  const on = async <T>(id: string, act: (container: Container) => Promise<T>): Promise<T> => {
    using container = await containers().load(id);
    return await act(container);
  };
  const implementation: ContainerServiceServer = {
    create: unary("Create", gate, async (_ctx, req) => {
      await createContainer(containers(), req);
      return {};
    }),
    start: unary("Start", gate, async (_ctx, req) => ({ pid: BigInt(await startContainer(containers(), req, false)) })),
    release: unary("Release", gate, async (_ctx, { id }) => {
      await on(id, async (container) => await container.exec());
      return {};
    }),
    run: unary("Run", gate, async (_ctx, req) => ({ pid: BigInt(await startContainer(containers(), req, true)) })),
    exec: bidiStream("Exec", gate, (ctx, requests, send) => execInContainer(containers(), requests, send, ctx.signal)),
    attach: bidiStream("Attach", gate, (ctx, requests, send) => attachToContainer(containers(), requests, send, ctx.signal)),
    wait: unary("Wait", gate, async (ctx, { id }) => {
      const leaving = AbortSignal.any([ctx.signal, gate.closing]);
      const exit = await on(id, async (container) => await container.wait(leaving)).catch((error: unknown) => {
        throw gate.closing.aborted ? new RuntimeError("unavailable", "caissond is stopping", {}, error) : error;
      });
      return { exit: exitReply(exit) };
    }),
    processes: unary("Processes", gate, async (_ctx, { id }) => ({
      pids: (await on(id, async (container) => await container.processes())).map(BigInt),
    })),
    stats: serverStream("Stats", gate, (ctx, req, send) => followStats(containers(), req, send, ctx.signal)),
    events: serverStream("Events", gate, (ctx, req, send) => followEvents(containers(), req, send, ctx.signal)),
    pause: unary("Pause", gate, async (_ctx, { id }) => {
      await on(id, async (container) => await container.pause());
      return {};
    }),
    resume: unary("Resume", gate, async (_ctx, { id }) => {
      await on(id, async (container) => await container.resume());
      return {};
    }),
    signal: unary("Signal", gate, async (_ctx, { id, signal }) => {
      await on(id, async (container) => await container.signal(signal));
      return {};
    }),
    set: unary("Set", gate, async (_ctx, req) => {
      await setContainer(containers(), req);
      return {};
    }),
    status: unary("Status", gate, async (_ctx, { id }) => ({
      status: await on(id, async (container) => await container.status()),
    })),
    state: unary("State", gate, async (_ctx, { id }) => await stateOfContainer(containers(), id)),
    list: unary("List", gate, async () => ({ containers: [...(await containers().list())] })),
    destroy: unary("Destroy", gate, async (_ctx, { id }) => {
      await destroyContainer(containers(), id);
      return {};
    }),
    checkpoint: unary("Checkpoint", gate, async (_ctx, req) => {
      await checkpointContainer(containers(), req);
      return {};
    }),
    restore: unary("Restore", gate, async (_ctx, req) => ({ pid: BigInt(await restoreContainer(containers(), req)) })),
  };
  return { definition: ContainerServiceService, implementation };
}
