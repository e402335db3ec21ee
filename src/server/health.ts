import type { ServerWritableStream } from "@grpc/grpc-js";
import {
  type HealthCheckRequest,
  type HealthCheckResponse,
  type HealthServer,
  HealthService,
  HealthCheckResponse_ServingStatus as Serving,
} from "../gen/grpc/health/v1/health.ts";
import { RuntimeError } from "../lib/errors.ts";
import { toStatus } from "./status.ts";

const services: ReadonlySet<string> = new Set(["", "runtime.v1.RuntimeService", "runtime.v1.ImageService"]);
type Watcher = ServerWritableStream<HealthCheckRequest, HealthCheckResponse>;

/** The standard health service, of the socket as a whole (empty name) and of both CRI services. They are well or not together. */
export class Health {
  readonly definition = HealthService;
  readonly implementation: HealthServer;
  readonly #watchers = new Set<Watcher>();
  #status: Serving = Serving.NOT_SERVING;

  constructor() {
    this.implementation = {
      check: (call, reply) => {
        const { service } = call.request;
        if (services.has(service)) reply(null, { status: this.#status });
        else reply(toStatus(new RuntimeError("not_found", `no service ${service} here`)));
      },
      watch: (call) => {
        const known = services.has(call.request.service);
        call.write({ status: known ? this.#status : Serving.SERVICE_UNKNOWN });
        if (!known) return;
        this.#watchers.add(call);
        call.once("close", () => this.#watchers.delete(call));
        call.once("cancelled", () => this.#watchers.delete(call));
      },
      list: (_call, reply) => {
        reply(null, { statuses: Object.fromEntries([...services].map((name) => [name, { status: this.#status }])) });
      },
    };
  }

  /** Whether calls are answered: false while records are read back and once the daemon ends. */
  set(serving: boolean): void {
    this.#status = serving ? Serving.SERVING : Serving.NOT_SERVING;
    for (const watcher of this.#watchers) watcher.write({ status: this.#status });
  }

  /** Ends the streams of all watchers: they would keep a connection open for ever. */
  close(): void {
    this.set(false);
    for (const watcher of this.#watchers) watcher.end();
  }
}
