import { addon, isErrno } from "../../native/addon.ts";
import type { SeqpacketConnection } from "../../native/types.ts";
import type { Packet } from "./codec.ts";

/**
 * Packets in order, held back while the shim does not read. The descriptors of a waiting packet are
 * lent: they must stay open until it has been sent or dropped.
 */
export class SendQueue {
  readonly #connection: SeqpacketConnection;
  readonly #onFailed: (error: unknown) => void;
  #waiting: Packet[] = [];

  /** `onFailed`: the connection is broken. */
  constructor(connection: SeqpacketConnection, onFailed: (error: unknown) => void) {
    this.#connection = connection;
    this.#onFailed = onFailed;
  }

  send(packet: Packet): void {
    this.#waiting.push(packet);
    if (this.#waiting.length === 1) this.#flush();
  }

  /** Takes back a packet that has not been sent: nobody waits for its answer any more. */
  drop(packet: Packet): void {
    const at = this.#waiting.indexOf(packet);
    if (at >= 0) release(this.#waiting.splice(at, 1));
  }

  clear(): void {
    release(this.#waiting.splice(0));
  }

  #flush(): void {
    for (let packet = this.#waiting[0]; packet !== undefined; packet = this.#waiting[0]) {
      try {
        this.#connection.send(packet.bytes, packet.fds);
      } catch (error) {
        if (isErrno(error, "EAGAIN")) this.#connection.onWritable(() => this.#flush());
        else this.#onFailed(error);
        return;
      }
      release(this.#waiting.splice(0, 1));
    }
  }
}

function release(packets: readonly Packet[]): void {
  for (const packet of packets) if (packet.memfd !== undefined) addon.close(packet.memfd);
}
