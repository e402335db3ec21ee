/** A registry in this process that serves images from memory and misbehaves on demand. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import type { BuiltImage } from "./oci-image.ts";

export interface SeenRequest {
  readonly method: string;
  /** Path with query. */
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
}

/** Answers a request itself, or returns false to have it answered as it should be. */
export type Interference = (request: SeenRequest, response: ServerResponse, body: Buffer) => boolean | Promise<boolean>;

export interface ServedDocument {
  readonly type: string;
  readonly data: Buffer;
}

export class FakeRegistry implements AsyncDisposable {
  /** "127.0.0.1:PORT" */
  readonly host: string;
  readonly url: string;
  readonly seen: SeenRequest[] = [];
  interfere: Interference = () => false;
  /** By "NAME/TAG" and "NAME/DIGEST". */
  readonly manifests = new Map<string, ServedDocument>();
  readonly blobs = new Map<string, Buffer>();
  readonly #server: Server;

  private constructor(server: Server, scheme: string) {
    this.#server = server;
    this.host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    this.url = `${scheme}://${this.host}`;
    server.on("request", (request: IncomingMessage, response: ServerResponse) => void this.#handle(request, response));
  }

  static async start(tls?: { cert: string; key: string; ca?: string }): Promise<FakeRegistry> {
    const server =
      tls === undefined ? createServer() : createTlsServer({ ...tls, ...(tls.ca !== undefined && { requestCert: true }) });
    await once(server.listen(0, "127.0.0.1"), "listening");
    return new FakeRegistry(server as Server, tls === undefined ? "http" : "https");
  }

  /** Serves the image; returns its reference. */
  add(name: string, tag: string, image: BuiltImage): string {
    this.addManifest(name, tag, image.manifestDigest, { type: image.manifestType, data: image.manifest });
    for (const [digest, data] of image.blobs) this.blobs.set(digest, data);
    return `${this.host}/${name}:${tag}`;
  }

  addManifest(name: string, tag: string, digest: string, document: ServedDocument): void {
    this.manifests.set(`${name}/${tag}`, document).set(`${name}/${digest}`, document);
  }

  requests(pattern: RegExp): SeenRequest[] {
    return this.seen.filter(({ method, url }) => pattern.test(`${method} ${url}`));
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const seen = { method: request.method ?? "", url: request.url ?? "", headers: request.headers };
    this.seen.push(seen);
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    if (await this.interfere(seen, response, Buffer.concat(chunks))) return;
    const { pathname } = new URL(seen.url, this.url);
    const [, name = "", kind = "", id = ""] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(pathname) ?? [];
    if (kind === "manifests") this.#manifest(this.manifests.get(`${name}/${id}`), seen, response);
    else this.#blob(this.blobs.get(id), seen, response);
  }

  #manifest(document: ServedDocument | undefined, request: SeenRequest, response: ServerResponse): void {
    if (document === undefined) {
      notFound(response, "MANIFEST_UNKNOWN");
      return;
    }
    response.writeHead(200, { "content-type": document.type, "content-length": document.data.length });
    response.end(request.method === "HEAD" ? undefined : document.data);
  }

  #blob(data: Buffer | undefined, request: SeenRequest, response: ServerResponse): void {
    if (data === undefined) {
      notFound(response, "BLOB_UNKNOWN");
      return;
    }
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const headers = { "content-type": "application/octet-stream", "content-length": data.length - start };
    if (start > 0) response.writeHead(206, { ...headers, "content-range": `bytes ${start}-${data.length - 1}/${data.length}` });
    else response.writeHead(200, headers);
    response.end(data.subarray(start));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }
}

function notFound(response: ServerResponse, code: string): void {
  response.writeHead(404, { "content-type": "application/json" });
  response.end(JSON.stringify({ errors: [{ code, message: "unknown" }] }));
}
