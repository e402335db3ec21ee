/**
 * A plain CRI client for any socket. It loads proto/cri/v1/api.proto at run time, so it shares no code with the server under test.
 * Field names are those of the proto file; int64 are strings; enums are names.
 */
import { join } from "node:path";
import {
  type ClientReadableStream,
  credentials,
  loadPackageDefinition,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

// biome-ignore lint/suspicious/noExplicitAny: messages of a proto file loaded at run time have no static type
export type Message = any;
type Unary = (
  request: Message,
  metadata: Metadata,
  options: { deadline?: number },
  done: (error: ServiceError | null, reply: Message) => void,
) => { cancel(): void };

export const grpcStatus = status;

const proto = loadSync(join(import.meta.dirname, "../../proto/cri/v1/api.proto"), {
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
});
const services = loadPackageDefinition(proto) as unknown as {
  runtime: { v1: Record<"RuntimeService" | "ImageService", new (address: string, c: object, options: object) => Message> };
};
const sixteenMiB = 16 << 20;

export class CriClient {
  readonly #runtime: Message;
  readonly #image: Message;

  constructor(address: string) {
    const options = {
      "grpc.default_authority": "localhost",
      "grpc.max_receive_message_length": sixteenMiB,
      "grpc.max_send_message_length": sixteenMiB,
      "grpc.initial_reconnect_backoff_ms": 20,
      "grpc.max_reconnect_backoff_ms": 100,
      // Channels of different tests must not share a broken connection.
      "grpc.use_local_subchannel_pool": 1,
    };
    this.#runtime = new services.runtime.v1.RuntimeService(address, credentials.createInsecure(), options);
    this.#image = new services.runtime.v1.ImageService(address, credentials.createInsecure(), options);
  }

  async runtime(method: string, request: Message, timeoutMs = 60_000, signal?: AbortSignal): Promise<Message> {
    return await this.#call(this.#runtime, method, request, timeoutMs, signal);
  }

  async image(method: string, request: Message, timeoutMs = 120_000, signal?: AbortSignal): Promise<Message> {
    return await this.#call(this.#image, method, request, timeoutMs, signal);
  }

  stream(method: string, request: Message): ClientReadableStream<Message> {
    return (method === "StreamImages" ? this.#image : this.#runtime)[method](request);
  }

  close(): void {
    this.#runtime.close();
    this.#image.close();
  }

  #call(service: Message, method: string, request: Message, timeoutMs: number, signal?: AbortSignal): Promise<Message> {
    return new Promise((resolve, reject) => {
      const call = (service[method] as Unary).call(
        service,
        request,
        new Metadata(),
        { deadline: Date.now() + timeoutMs },
        (error, reply) => (error ? reject(error) : resolve(reply)),
      );
      signal?.addEventListener("abort", () => call.cancel(), { once: true });
    });
  }
}

/** The gRPC code and text of a call that must fail. */
export async function failure(call: Promise<unknown>): Promise<{ code: number; details: string }> {
  try {
    await call;
  } catch (error) {
    const { code, details } = error as ServiceError;
    return { code, details };
  }
  throw new Error("the call succeeded");
}
