/** A client of caisson.v1.ContainerService. */
import { type ClientDuplexStream, type ClientReadableStream, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import {
  ContainerAttachRequest,
  ContainerExecRequest,
  type ContainerExit,
  type ContainerInput,
  type ContainerProcess,
  ContainerServiceClient,
  type ContainerStreamResponse,
  ContainerProcess as ProcessMessage,
} from "../../src/gen/caisson/v1/container.ts";

type Call<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: { deadline: number },
  reply: (error: ServiceError | null, response: Response) => void,
) => unknown;

export class ContainerClient {
  readonly stub: ContainerServiceClient;

  constructor(socket: string) {
    this.stub = new ContainerServiceClient(`unix:${socket}`, credentials.createInsecure(), {
      "grpc.default_authority": "localhost",
    });
  }

  /** `call(c.stub.pause, { id })`. Rejects with grpc-js's error. */
  call<Request, Response>(method: Call<Request, Response>, request: Request): Promise<Response> {
    return new Promise((resolve, reject) => {
      method.call(this.stub, request, new Metadata(), { deadline: Date.now() + 30_000 }, (error, response) =>
        error === null ? resolve(response) : reject(error),
      );
    });
  }

  exec(id: string, process: Partial<ContainerProcess>, more: { stdin?: boolean; detach?: boolean } = {}): Talk {
    const call = this.stub.exec();
    const start = { id, process: ProcessMessage.fromPartial(process), stdin: more.stdin ?? false, detach: more.detach ?? false };
    call.write(ContainerExecRequest.fromPartial({ start }));
    return new Talk(call, (input) => void call.write(ContainerExecRequest.fromPartial({ input })));
  }

  attach(id: string, more: { stdin?: boolean; stderr?: boolean } = {}): Talk {
    const call = this.stub.attach();
    call.write(ContainerAttachRequest.fromPartial({ start: { id, stdin: more.stdin ?? false, stderr: more.stderr ?? false } }));
    return new Talk(call, (input) => void call.write(ContainerAttachRequest.fromPartial({ input })));
  }

  close(): void {
    this.stub.close();
  }
}

/** One call of Exec or Attach. */
export class Talk {
  readonly call: ClientDuplexStream<never, ContainerStreamResponse>;
  readonly say: (input: ContainerInput) => void;
  readonly started: Promise<bigint>;
  /** Resolves with the exit when the stream ends well; undefined when none was told. */
  readonly ended: Promise<ContainerExit | undefined>;
  out = "";
  err = "";
  #waiting: { readonly text: string; readonly done: () => void }[] = [];

  constructor(call: unknown, say: (input: ContainerInput) => void) {
    this.call = call as ClientDuplexStream<never, ContainerStreamResponse>;
    this.say = say;
    const started = Promise.withResolvers<bigint>();
    const ended = Promise.withResolvers<ContainerExit | undefined>();
    for (const promise of [started.promise, ended.promise] as Promise<unknown>[]) promise.catch(() => {});
    this.started = started.promise;
    this.ended = ended.promise;
    let exit: ContainerExit | undefined;
    this.call.on("data", (message: ContainerStreamResponse) => {
      if (message.started !== undefined) started.resolve(message.started.pid);
      if (message.exit !== undefined) exit = message.exit;
      this.out += message.stdout?.toString() ?? "";
      this.err += message.stderr?.toString() ?? "";
      this.#waiting = this.#waiting.filter(({ text, done }) => {
        if (!this.out.includes(text)) return true;
        done();
        return false;
      });
    });
    this.call.on("end", () => ended.resolve(exit));
    this.call.on("error", (error) => {
      started.reject(error);
      ended.reject(error);
    });
  }

  /** Resolves when that has been written. */
  async shows(text: string): Promise<void> {
    if (this.out.includes(text)) return;
    await Promise.race([new Promise<void>((done) => this.#waiting.push({ text, done })), this.ended]);
    if (!this.out.includes(text)) throw new Error(`it ended without ${JSON.stringify(text)}: ${this.out}${this.err}`);
  }
}

/** All messages of a stream until its end. */
export function collect<Message>(stream: ClientReadableStream<Message>): Promise<Message[]> {
  const all: Message[] = [];
  return new Promise((resolve, reject) => {
    stream.on("data", (message: Message) => all.push(message));
    stream.on("end", () => resolve(all));
    stream.on("error", reject);
  });
}
