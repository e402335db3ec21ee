import { type CallOptions, type Client, credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { NodeServiceClient } from "../gen/caisson/v1/node.ts";
import { ImageServiceClient, RuntimeServiceClient } from "../gen/cri/v1/api.ts";
import { CommandError } from "./command-error.ts";

type Reply<Response> = (error: ServiceError | null, response: Response) => void;
type Unary<Request, Response> = (request: Request, metadata: Metadata, options: CallOptions, reply: Reply<Response>) => unknown;

/** The three services of a daemon's socket. */
export class Connection {
  readonly runtime: RuntimeServiceClient;
  readonly image: ImageServiceClient;
  readonly node: NodeServiceClient;
  readonly #socket: string;
  readonly #timeoutMs: number;

  constructor(socket: string, timeoutMs: number) {
    const address = `unix:${socket}`;
    const options = { "grpc.default_authority": "localhost", "grpc.max_receive_message_length": 16 << 20 };
    this.runtime = new RuntimeServiceClient(address, credentials.createInsecure(), options);
    this.image = new ImageServiceClient(address, credentials.createInsecure(), options);
    this.node = new NodeServiceClient(address, credentials.createInsecure(), options);
    this.#socket = socket;
    this.#timeoutMs = timeoutMs;
  }

  /** `method` is one of the client's own: `call(c.runtime, c.runtime.version, {...})`. @throws CommandError */
  call<Request, Response>(client: Client, method: Unary<Request, Response>, request: Request): Promise<Response> {
    return new Promise((resolve, reject) => {
      const deadline = Date.now() + this.#timeoutMs;
      method.call(client, request, new Metadata(), { deadline }, (error, response) => {
        if (error === null) resolve(response);
        else reject(this.#worded(error));
      });
    });
  }

  close(): void {
    for (const client of [this.runtime, this.image, this.node]) client.close();
  }

  #worded(error: ServiceError): CommandError {
    if (error.code === status.UNAVAILABLE && /connect|ENOENT|ECONNREFUSED|EACCES|No connection/i.test(error.details)) {
      const reason = /connect \w+/.exec(error.details)?.[0] ?? error.details;
      return new CommandError(
        `no daemon answers at ${this.#socket}: start caissond, or name its socket with --socket (${reason})`,
      );
    }
    return new CommandError(`${status[error.code] ?? error.code}: ${error.details}`);
  }
}
