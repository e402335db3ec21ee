import type { Socket, Server as SocketServer } from "node:net";
import { Server, ServerCredentials, type ServiceDefinition, type UntypedServiceImplementation } from "@grpc/grpc-js";
import { requestMessages } from "../gen/message-shapes.ts";
import type { Log } from "../lib/log.ts";
import { listenUnix } from "../lib/unix-listener.ts";
import { Health } from "./health.ts";
import { reflectionServices } from "./reflection.ts";
import { readRequest } from "./wire-check.ts";

/** What the kubelet receives at most, and more than it ever sends. */
export const maxMessageBytes = 16 * 1024 * 1024;

export interface Service {
  readonly definition: ServiceDefinition;
  readonly implementation: UntypedServiceImplementation;
}

export interface GrpcServer {
  readonly health: Health;
  /** Takes no new connection or call, lets the running ones end within `graceMs`, then cuts them off. The socket is removed first. */
  close(graceMs: number): Promise<void>;
}

/** Requests are checked before they are decoded: a malformed one becomes an answer of the wrapper around its verb. */
function withCheckedRequests(definition: ServiceDefinition): ServiceDefinition {
  const checked = Object.entries(definition).map(([name, method]): [string, ServiceDefinition[string]] => {
    const message = requestMessages[method.path];
    if (message === undefined) throw new Error(`the request of ${method.path} has no known shape`);
    return [name, { ...method, requestDeserialize: (bytes) => readRequest(message, bytes, method.requestDeserialize) }];
  });
  return Object.fromEntries(checked);
}

/** A reply that does not fit its message (a number out of range) is our mistake: grpc-js would tell the client alone. */
function withLoggedReplies(definition: ServiceDefinition, log: Pick<Log, "error">): ServiceDefinition {
  const logged = Object.entries(definition).map(([name, method]): [string, ServiceDefinition[string]] => {
    const responseSerialize = (value: unknown): Buffer => {
      try {
        return method.responseSerialize(value);
      } catch (error) {
        log.error({ rpc: name, err: error }, "a reply could not be encoded");
        throw error;
      }
    };
    return [name, { ...method, responseSerialize }];
  });
  return Object.fromEntries(logged);
}

/**
 * Serves gRPC on a unix socket. Connections are accepted here and handed over: grpc-js itself would make the socket with whatever
 * mode the umask leaves.
 */
export async function serveGrpc(path: string, services: readonly Service[], log: Pick<Log, "error">): Promise<GrpcServer> {
  const server = new Server({
    "grpc.max_receive_message_length": maxMessageBytes,
    "grpc.max_send_message_length": maxMessageBytes,
    // One stream's window of 64 KiB would make a 16 MiB list take hundreds of round trips.
    "grpc-node.flow_control_window": 1 << 20,
    "grpc.enable_channelz": 0,
  });
  const health = new Health();
  const ours = services.map((service) => ({ ...service, definition: withCheckedRequests(service.definition) }));
  for (const { definition, implementation } of [...ours, health, ...reflectionServices()]) {
    server.addService(withLoggedReplies(definition, log), implementation);
  }
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const sockets = new Set<Socket>();
  const listener = await listenUnix(path, (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    injector.injectConnection(socket);
  });
  return {
    health,
    close: (graceMs) => {
      health.close();
      return close(server, listener, sockets, graceMs);
    },
  };
}

/**
 * tryShutdown says goodbye to every client, but returns at once although calls are running (Node closes a session's server and
 * grpc-js then takes the session for closed), and forceShutdown forgets sessions: what counts is the connections.
 */
async function close(server: Server, listener: SocketServer, sockets: ReadonlySet<Socket>, graceMs: number): Promise<void> {
  const drained = new Promise<void>((resolve) => listener.close(() => resolve()));
  server.tryShutdown(() => {});
  let timer: NodeJS.Timeout | undefined;
  const overdue = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, graceMs);
  });
  await Promise.race([drained, overdue]);
  clearTimeout(timer);
  for (const socket of sockets) socket.destroy();
  await drained;
}
