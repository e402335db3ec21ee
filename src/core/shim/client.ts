import { messageOf, RuntimeError, wrapError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import { errnoText } from "../../native/errno.ts";
import type { SeqpacketConnection } from "../../native/types.ts";
import { decodeMessage, encodeMessage, type Message, type MessageName, type Packet, type RecordOfMessage } from "./codec.ts";
import { requestFailure, type ShimFailure } from "./failure.ts";
import { SendQueue } from "./send-queue.ts";

export interface Request<N extends MessageName> {
  readonly name: N;
  readonly record: RecordOfMessage<N>;
  /** Lent until the promise settles; the shim gets copies. */
  readonly fds?: readonly number[];
  /** How long the answer may take. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Names what is asked, for messages: "container abc". */
  readonly what: string;
  /** Words a `failed`; without it, as a refusal of the shim. */
  readonly explain?: (failure: ShimFailure) => RuntimeError;
  /** The child waits at a barrier; it goes on when the promise resolves. */
  readonly onBarrier?: (number: number, pid: number) => Promise<void>;
  /** Messages of a list, before its `ok`. */
  readonly onItem?: (message: Message) => void;
}

/** What is not an answer: exit, exec-exit, oom, spawn-exit. */
export type ShimEvent = Extract<Message, { name: "exit" | "exec-exit" | "oom" | "spawn-exit" }>;

export interface ClientListeners {
  readonly onEvent: (event: ShimEvent) => void;
  /** Called once when the connection ends without close(). */
  readonly onLost: (error: RuntimeError) => void;
}

interface Pending {
  readonly request: Request<MessageName>;
  readonly resolve: (message: Message) => void;
  readonly reject: (error: unknown) => void;
}

const idLimit = 0x1_0000_0000;
/** Node fires longer timers at once. */
const longestTimerMs = 0x7fff_ffff;

/** One connection to a shim: numbers requests, matches answers, owns what came with them until somebody takes it. */
export class ShimClient {
  readonly #connection: SeqpacketConnection;
  readonly #queue: SendQueue;
  readonly #listeners: ClientListeners;
  readonly #podId: string;
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;
  #ended: RuntimeError | undefined;

  /** dirFd: the pod's directory, used during the call only. Fails with ENOENT or ECONNREFUSED when no shim listens. */
  constructor(podId: string, dirFd: number, socketName: string, listeners: ClientListeners, background = false) {
    this.#podId = podId;
    this.#listeners = listeners;
    this.#connection = addon.seqpacketConnect(
      dirFd,
      socketName,
      (bytes, fds) => this.#receive(bytes, fds),
      (errno) => this.#end(errno === 0 ? "it closed the connection" : errnoText(errno), errno),
      background,
    );
    this.#queue = new SendQueue(this.#connection, (error) => this.#fail(error));
  }

  get connected(): boolean {
    return this.#ended === undefined;
  }

  peer(): { readonly pid: number; readonly uid: number } {
    return this.#connection.peer();
  }

  /** Resolves with the answer, whose descriptors then belong to the caller; a `failed` rejects. */
  request<N extends MessageName>(request: Request<N>): Promise<Message> {
    const { promise, resolve, reject } = Promise.withResolvers<Message>();
    const { signal } = request;
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    if (signal?.aborted === true) return Promise.reject(canceled(request.what, signal.reason));

    const id = this.#nextId();
    const packet = encodeMessage(request.name, id, request.record, request.fds);
    const give = (error: unknown): void => this.#settle(id, packet, () => reject(error));
    const timer = setTimeout(() => give(tooLate(request)), Math.min(request.deadlineMs, longestTimerMs));
    const onAbort = (): void => give(canceled(request.what, signal?.reason));
    signal?.addEventListener("abort", onAbort, { once: true });
    this.#pending.set(id, { request: request as never, resolve, reject });
    this.#queue.send(packet);
    return promise.finally(() => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    });
  }

  /** Sends what has no answer of its own, or one that nobody needs. A lost connection is no error here. */
  post<N extends MessageName>(name: N, record: RecordOfMessage<N>, id = this.#nextId()): void {
    if (this.#ended === undefined) this.#queue.send(encodeMessage(name, id, record));
  }

  /** Lets go of the shim. What is under way is rejected; onLost is not called. */
  close(): void {
    this.#stop(new RuntimeError("unavailable", `the connection to the shim of pod ${this.#podId} was closed`));
  }

  #nextId(): number {
    do this.#lastId = (this.#lastId + 1) % idLimit;
    while (this.#lastId === 0 || this.#pending.has(this.#lastId));
    return this.#lastId;
  }

  #settle(id: number, packet: Packet | undefined, settle: () => void): void {
    if (!this.#pending.delete(id)) return;
    if (packet !== undefined) this.#queue.drop(packet);
    settle();
  }

  #receive(bytes: Buffer, fds: number[]): void {
    let taken = false;
    try {
      const message = decodeMessage(bytes, fds);
      if (message.name === undefined) {
        const sentence = `the shim of pod ${this.#podId} answered with message type ${message.type}, which this daemon does not know`;
        const pending = this.#pending.get(message.id);
        if (pending !== undefined)
          this.#settle(message.id, undefined, () => pending.reject(new RuntimeError("internal", sentence)));
        return;
      }
      taken = this.#dispatch(message);
    } catch (error) {
      this.#fail(error);
    } finally {
      if (!taken) closeAll(fds);
    }
  }

  /** Whether somebody took the message with its descriptors. */
  #dispatch(message: Message): boolean {
    switch (message.name) {
      case "exit":
      case "exec-exit":
      case "oom":
      case "spawn-exit":
        this.#tell(message);
        return false;
    }
    /* An answer that came too late: whoever asked has gone. */
    const pending = this.#pending.get(message.id);
    if (pending === undefined) return false;
    const { request, resolve, reject } = pending;
    switch (message.name) {
      case "barrier":
        void this.#meetBarrier(message.id, pending, message.record);
        return false;
      case "container-state":
        request.onItem?.(message);
        return false;
      case "failed": {
        const { record } = message;
        this.#settle(message.id, undefined, () => reject(request.explain?.(record) ?? requestFailure(request.what, record)));
        return false;
      }
      default:
        this.#settle(message.id, undefined, () => resolve(message));
        return true;
    }
  }

  /** A listener's fault is not the shim's: the connection goes on. */
  #tell(event: ShimEvent): void {
    try {
      this.#listeners.onEvent(event);
    } catch (error) {
      process.emitWarning(`a listener failed on the event ${event.name} of pod ${this.#podId}: ${messageOf(error)}`);
    }
  }

  async #meetBarrier(id: number, pending: Pending, barrier: RecordOfMessage<"barrier">): Promise<void> {
    const { request, reject } = pending;
    try {
      if (request.onBarrier === undefined) {
        throw new RuntimeError("internal", `${request.what} stopped at barrier ${barrier.number}, which nobody expected`);
      }
      await request.onBarrier(barrier.number, barrier.pid);
      if (this.#pending.has(id)) this.post("continue", { number: barrier.number }, id);
    } catch (error) {
      this.#settle(id, undefined, () => reject(error));
    }
  }

  /** The protocol is broken: nothing that follows can be trusted. */
  #fail(error: unknown): void {
    this.#end(wrapError("the connection failed", error).message, 0);
  }

  #end(reason: string, errno: number): void {
    if (this.#ended !== undefined) return;
    const error = new RuntimeError("unavailable", `the shim of pod ${this.#podId} is lost: ${reason}`, {
      pod: this.#podId,
      errno,
    });
    this.#stop(error);
    this.#listeners.onLost(error);
  }

  #stop(error: RuntimeError): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    this.#connection.close();
    this.#queue.clear();
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { request, reject } of pending) reject(wrapError(request.what, error));
  }
}

export function closeAll(fds: readonly number[]): void {
  for (const fd of fds) addon.close(fd);
}

function tooLate(request: Request<MessageName>): RuntimeError {
  const fields = { request: request.name, deadlineMs: request.deadlineMs };
  return new RuntimeError(
    "deadline_exceeded",
    `${request.what}: the shim did not answer ${request.name} in ${request.deadlineMs} ms`,
    fields,
  );
}

/** The reason of an aborted signal as an error with a code: a deadline, or whoever asked has gone. */
export function canceled(what: string, reason: unknown): RuntimeError {
  if (reason instanceof RuntimeError) return wrapError(what, reason);
  const late = reason instanceof DOMException && reason.name === "TimeoutError";
  return new RuntimeError(
    late ? "deadline_exceeded" : "canceled",
    `${what}: ${late ? "the deadline is over" : "canceled"}`,
    {},
    reason,
  );
}
