/** A shim that a test plays itself: greets like the real one, hands every other request to the test. */

import { opSchemas } from "../../src/core/plan-schema.ts";
import {
  decodeMessage,
  encodeMessage,
  headerBytes,
  type Message,
  type MessageName,
  type RecordOfMessage,
  typeOfMessage,
} from "../../src/core/shim/codec.ts";
import { connectShim } from "../../src/core/shim/connect.ts";
import type { ExitRecord, ShimListeners } from "../../src/core/shim/events.ts";
import { messageSchemas } from "../../src/core/shim/messages.ts";
import { readStartTicks } from "../../src/core/shim/process-handle.ts";
import type { Shim } from "../../src/core/shim/shim.ts";
import type { RuntimeError } from "../../src/lib/errors.ts";
import { type PeerEvent, SeqpacketPeer } from "./seqpacket-peer.ts";

export const podId = "ab".repeat(32);

/** A request as the fake got it; `links` say which descriptors came with it. */
export type Received = Message & { readonly links: readonly string[] };

export class FakeShim implements AsyncDisposable {
  readonly peer: SeqpacketPeer;
  readonly received: Received[] = [];
  readonly exits: ExitRecord[] = [];
  readonly lost: RuntimeError[] = [];
  /** Changes to the answer to hello. */
  hello: Partial<RecordOfMessage<"hello-reply">> = {};
  onRequest: (request: Received) => void = () => {};
  onClosed: () => void = () => {};
  #wake: () => void = () => {};

  private constructor(peer: SeqpacketPeer) {
    this.peer = peer;
    peer.onEvent((event) => this.#event(event));
  }

  static async start(): Promise<FakeShim> {
    return new FakeShim(await SeqpacketPeer.listen());
  }

  async connect(change: Partial<Parameters<typeof connectShim>[0]> = {}): Promise<Shim> {
    const listeners: ShimListeners = {
      onExit: (exit) => this.exits.push(exit),
      onLost: (error) => this.lost.push(error),
    };
    return await connectShim({ podId, runDir: this.peer.directory, expected: null, listeners, ...change });
  }

  reply<N extends MessageName>(id: number, name: N, record: RecordOfMessage<N>, files: readonly string[] = []): void {
    this.peer.send(encodeMessage(name, id, record).bytes, files);
  }

  fail(id: number, errno: number, op: number, detail: string): void {
    this.reply(id, "failed", { errno, op, detail });
  }

  /** The next request that the fake has got, in order. */
  async next(name: MessageName): Promise<Received> {
    while (this.received.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const request = this.received.shift();
    if (request?.name !== name) throw new Error(`the shim got ${request?.name}, expected ${name}`);
    return request;
  }

  #event(event: PeerEvent): void {
    if (event.event === "closed") this.onClosed();
    if (event.event !== "packet") return;
    const packet = Buffer.from(event.hex ?? "", "hex");
    let links = event.links ?? [];
    /* A payload in a memfd has been read by the peer: put it back where it would be inline. */
    if (packet.readUInt16LE(2) === 1) {
      packet.writeUInt16LE(0, 2);
      links = links.slice(1);
    }
    const content = packet.length === headerBytes ? Buffer.from(event.contents?.[0] ?? "", "hex") : Buffer.alloc(0);
    const message = decodeMessage(Buffer.concat([packet, content]), []);
    if (message.name === undefined) throw new Error(`the shim got the unknown type ${message.type}`);
    if (message.name === "hello") this.#greet(message.id);
    else {
      const received = { ...message, links } as Received;
      this.received.push(received);
      this.onRequest(received);
      this.#wake();
    }
  }

  #greet(id: number): void {
    const { pid } = this.peer;
    this.reply(id, "hello-reply", {
      protocol: 2,
      minProtocol: 1,
      maxProtocol: 2,
      build: "fake",
      podId,
      pid,
      startTicks: readStartTicks(pid) ?? 0n,
      features: 0,
      ops: Object.values(opSchemas).map((op) => op.code),
      messages: (Object.keys(messageSchemas) as MessageName[]).map(typeOfMessage),
      ...this.hello,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.peer[Symbol.asyncDispose]();
  }
}
