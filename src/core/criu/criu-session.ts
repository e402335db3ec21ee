/** CRIU's RPC: requests and responses over a socket whose other end `criu swrk` is given. Notifications are answered in order. */

import { Request, RequestType, Response } from "../../gen/criu/rpc.ts";
import { RuntimeError, wrapError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import type { SeqpacketConnection } from "../../native/types.ts";

/** Called at each step that CRIU tells of (`pre-dump`, `setup-namespaces`, ...); a rejection makes it give up. The descriptors are the hook's. */
export type CriuHook = (script: string, pid: number, fds: readonly number[]) => Promise<void>;

export interface CriuCall {
  readonly request: Request;
  readonly onNotify?: CriuHook;
}

export class CriuSession implements Disposable {
  readonly #connection: SeqpacketConnection;
  #otherEnd: number | undefined;
  #waiting: { readonly call: CriuCall; readonly done: PromiseWithResolvers<Response> } | undefined;
  #ended: RuntimeError | undefined;
  /** What a hook threw: the reason of the failure that CRIU then reports. */
  #hookError: unknown;
  #notified: Promise<void> = Promise.resolve();

  constructor() {
    const { otherEnd, ...connection } = addon.seqpacketPair(
      (packet, fds) => this.#receive(packet, fds),
      () => this.#end(new RuntimeError("internal", "CRIU ended without an answer")),
    );
    this.#connection = connection;
    this.#otherEnd = otherEnd;
  }

  /** For the program; ours until `given`. */
  get otherEnd(): number {
    if (this.#otherEnd === undefined) throw new RuntimeError("internal", "CRIU has its end of the socket already");
    return this.#otherEnd;
  }

  /** The program has its copy: from now on its end is seen. */
  given(): void {
    if (this.#otherEnd !== undefined) addon.close(this.#otherEnd);
    this.#otherEnd = undefined;
  }

  /** Resolves with CRIU's response, whether good or bad; rejects when there is none, or with what a hook threw. */
  async call(call: CriuCall): Promise<Response> {
    if (this.#ended !== undefined) throw this.#ended;
    const done = Promise.withResolvers<Response>();
    this.#waiting = { call, done };
    // Through done: a rejection that nobody waits for would end the daemon.
    this.#trySend(call.request);
    const response = await done.promise;
    if (!response.success && this.#hookError !== undefined) throw this.#hookError;
    return response;
  }

  /** Gives up waiting: CRIU has ended, or must. */
  abandon(reason: RuntimeError): void {
    this.#end(reason);
  }

  [Symbol.dispose](): void {
    this.given();
    this.#end(new RuntimeError("canceled", "the conversation with CRIU was closed"));
  }

  #send(request: Request): void {
    this.#connection.send(Request.encode(request).finish(), []);
  }

  #receive(packet: Buffer, fds: number[]): void {
    const response = Response.decode(packet);
    const waiting = this.#waiting;
    if (response.type === RequestType.NOTIFY) {
      this.#notified = this.#notified.then(() => this.#answer(waiting?.call.onNotify, response, fds));
      return;
    }
    for (const fd of fds) addon.close(fd);
    this.#waiting = undefined;
    waiting?.done.resolve(response);
  }

  async #answer(hook: CriuHook | undefined, { notify }: Response, fds: readonly number[]): Promise<void> {
    let good = true;
    try {
      if (hook === undefined) for (const fd of fds) addon.close(fd);
      else await hook(notify?.script ?? "", notify?.pid ?? 0, fds);
    } catch (error) {
      this.#hookError ??= error;
      good = false;
    }
    if (this.#ended === undefined) this.#trySend({ type: RequestType.NOTIFY, notifySuccess: good });
  }

  #trySend(request: Request): void {
    try {
      this.#send(request);
    } catch (error) {
      this.#end(wrapError("CRIU does not listen", error));
    }
  }

  #end(error: RuntimeError): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    this.#connection.close();
    this.#waiting?.done.reject(this.#hookError ?? error);
    this.#waiting = undefined;
  }
}
