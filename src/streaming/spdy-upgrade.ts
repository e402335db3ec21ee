/** The HTTP side of SPDY: from an upgrade request to a connection. */
import { type IncomingMessage, STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";

/** Values of a header that may be repeated and may hold lists. */
export function headerList(request: IncomingMessage, name: string): readonly string[] {
  const value = request.headers[name];
  return (Array.isArray(value) ? value : [value ?? ""])
    .flatMap((line) => line.split(","))
    .map((item) => item.trim())
    .filter((item) => item !== "");
}

export function refuseUpgrade(
  socket: Duplex,
  status: number,
  text: string,
  headers: Readonly<Record<string, string>> = {},
): void {
  const body = `${text}\n`;
  const lines = Object.entries({
    "Content-Type": "text/plain; charset=utf-8",
    "Content-Length": String(Buffer.byteLength(body)),
    Connection: "close",
    ...headers,
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.once("finish", () => socket.destroy());
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ""}\r\n${lines.join("")}\r\n${body}`);
}

/** Chooses the first protocol of the client's that is known here and switches to SPDY; undefined: refused, with an answer. */
export function upgradeToSpdy<P extends string>(request: IncomingMessage, socket: Duplex, known: readonly P[]): P | undefined {
  if (!headerList(request, "upgrade").some((name) => name.toLowerCase() === "spdy/3.1")) {
    refuseUpgrade(socket, 400, "unable to upgrade: the request must ask for SPDY/3.1 or websocket");
    return undefined;
  }
  const asked = headerList(request, "x-stream-protocol-version");
  if (asked.length === 0) {
    refuseUpgrade(socket, 400, "unable to upgrade: X-Stream-Protocol-Version is required");
    return undefined;
  }
  const chosen = asked
    .map((name) => known.find((protocol) => protocol === name.toLowerCase()))
    .find((name) => name !== undefined);
  if (chosen === undefined) {
    refuseUpgrade(socket, 403, `unable to upgrade: none of the protocols is known here; known are ${known.join(", ")}`, {
      "X-Accepted-Stream-Protocol-Versions": known.join(","),
    });
    return undefined;
  }
  socket.write(
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n" +
      `X-Stream-Protocol-Version: ${chosen}\r\n\r\n`,
  );
  return chosen;
}
