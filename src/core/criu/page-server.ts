/**
 * CRIU's way to who takes its pages. CRIU itself runs in the container's network, and wants a socket that blocks: it connects to
 * a unix socket of ours, and we pass the bytes on, in the network of the host.
 */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";

export interface PageServerAddress {
  readonly address: string;
  readonly port: number;
}

export class PageServerLink implements Disposable {
  readonly #directory = mkdtempSync(join(tmpdir(), "caisson-pages-"));
  readonly #closing = new DisposableStack();

  private constructor() {
    this.#closing.defer(() => rmSync(this.#directory, { recursive: true, force: true }));
  }

  /** Where CRIU connects. */
  get path(): string {
    return join(this.#directory, "socket");
  }

  /** To a `criu page-server`, which takes the pages. @throws RuntimeError unavailable when it does not answer. */
  static async toServer({ address, port }: PageServerAddress): Promise<PageServerLink> {
    using undo = new DisposableStack();
    const link = undo.use(new PageServerLink());
    const far = link.#own(connect({ host: address, port, allowHalfOpen: true }));
    try {
      await once(far, "connect");
    } catch (error) {
      throw new RuntimeError("unavailable", `the page server ${address}:${port} cannot be reached`, {}, error);
    }
    await link.#expect((near) => splice(near, far));
    undo.move();
    return link;
  }

  [Symbol.dispose](): void {
    this.#closing[Symbol.dispose]();
  }

  async #expect(onCriu: (socket: Socket) => void): Promise<void> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    this.#closing.defer(() => void server.close());
    server.once("connection", (socket) => {
      server.close();
      onCriu(this.#own(socket));
    });
    server.listen(this.path);
    await once(server, "listening");
  }

  #own(socket: Socket): Socket {
    // CRIU's ends each say what broke.
    socket.on("error", () => socket.destroy());
    if (this.#closing.disposed) socket.destroy();
    else this.#closing.defer(() => void socket.destroy());
    return socket;
  }
}

/** What breaks one breaks the other. */
function splice(a: Socket, b: Socket): void {
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    from.on("close", () => to.destroy());
    from.pipe(to);
  }
}
