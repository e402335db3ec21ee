/** Answers calls over one connection. */
import { messageShapes } from "../gen/message-shapes.ts";
import { Request, Response } from "../gen/ttrpc/ttrpc.ts";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import { faultOfMessage } from "../lib/wire-shape.ts";
import { brokenProtocol, encodeFrame, type Frame, FrameReader, frameType } from "./frame.ts";
import { statusOfCode } from "./status-code.ts";

/** The payload of the answer. */
export type Answer = (payload: Buffer) => Promise<Uint8Array>;

/** A plugin that asks for more at the same time waits for nobody: it is refused. */
const mostAtOnce = 32;
const longestMessage = 4096;
const nothing = Buffer.alloc(0);

export class TtrpcServer {
  readonly #frames = new FrameReader();
  readonly #send: (frame: Buffer) => void;
  /** By "SERVICE/METHOD". */
  readonly #methods: ReadonlyMap<string, Answer>;
  #lastStream = 0;
  #underWay = 0;

  constructor(send: (frame: Buffer) => void, methods: ReadonlyMap<string, Answer>) {
    this.#send = send;
    this.#methods = methods;
  }

  /** @throws RuntimeError data_loss on what is no request. */
  receive(bytes: Buffer): void {
    for (const frame of this.#frames.push(bytes)) {
      if (frame.type !== frameType.request) throw brokenProtocol(`a frame of type ${frame.type} where only requests come`);
      if (frame.flags !== 0) throw brokenProtocol("a request that opens a stream of data");
      if (frame.stream % 2 !== 1 || frame.stream <= this.#lastStream) {
        throw brokenProtocol(`a request on stream ${frame.stream} after ${this.#lastStream}`);
      }
      this.#lastStream = frame.stream;
      const fault = faultOfMessage(messageShapes, "ttrpc.Request", frame.data);
      if (fault !== undefined) throw brokenProtocol(`a request is malformed: ${fault}`);
      void this.#answer(frame);
    }
  }

  /** Never rejects. */
  async #answer({ stream, data }: Frame): Promise<void> {
    const { service, method, payload } = Request.decode(data);
    this.#underWay++;
    try {
      const answer = this.#methods.get(`${service}/${method}`);
      if (answer === undefined) throw new RuntimeError("unimplemented", `${service}/${method} is not known`);
      if (this.#underWay > mostAtOnce) throw new RuntimeError("resource_exhausted", `${mostAtOnce} calls are under way`);
      this.#reply(stream, { status: undefined, payload: Buffer.from(await answer(payload)) });
    } catch (error) {
      const code = error instanceof RuntimeError ? error.code : "internal";
      const message = messageOf(error).slice(0, longestMessage);
      this.#reply(stream, { status: { code: statusOfCode(code), message }, payload: nothing });
    } finally {
      this.#underWay--;
    }
  }

  #reply(stream: number, response: Response): void {
    this.#send(encodeFrame(stream, frameType.response, Response.encode(response).finish()));
  }
}
