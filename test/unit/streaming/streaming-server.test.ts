import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openStreamingServer, type StreamingOptions } from "../../../src/streaming/streaming-server.ts";

const warnings: string[] = [];
const options: StreamingOptions = {
  address: "127.0.0.1",
  port: 0,
  tls: undefined,
  idleMs: 60_000,
  ttlMs: 60_000,
  mostPending: 10,
  log: { debug: () => {}, info: () => {}, warn: (_fields, message) => warnings.push(message) },
};
const target = { ports: [], connect: async () => Promise.reject(new Error("no pod")) };

describe("the streaming server", () => {
  it.each([
    ["127.0.0.1", "127.0.0.1", 0],
    ["::1", "[::1]", 0],
    ["0.0.0.0", "127.0.0.1", 1],
    ["::", "[::1]", 1],
  ])("on %s gives out URLs of %s, with %i warnings", async (address, host, count) => {
    warnings.length = 0;
    const server = await openStreamingServer({ ...options, address });
    const url = new URL(server.portForward(target));
    expect(url.host).toBe(`${host}:${url.port}`);
    expect((await fetch(url)).status).toBe(400);
    expect(warnings).toHaveLength(count);
    await server.close();
  });

  it("says why it cannot listen", async () => {
    const first = await openStreamingServer(options);
    const port = Number(new URL(first.portForward(target)).port);
    await expect(openStreamingServer({ ...options, port })).rejects.toThrow(/cannot listen.*in use/);
    await first.close();
    await expect(openStreamingServer({ ...options, address: "192.0.2.1" })).rejects.toMatchObject({ code: "invalid_argument" });
  });

  it("says which certificate cannot be used", async () => {
    const directory = mkdtempSync(join(tmpdir(), "caisson-tls-"));
    const cert = join(directory, "cert.pem");
    const tls = { cert, key: cert, clientCa: undefined };
    await expect(openStreamingServer({ ...options, tls })).rejects.toThrow(/certificate cannot be used.*cert\.pem/);
    writeFileSync(cert, "no certificate");
    await expect(openStreamingServer({ ...options, tls })).rejects.toMatchObject({ code: "invalid_argument" });
    rmSync(directory, { recursive: true });
  });

  it("closes with connections that say nothing", async () => {
    const server = await openStreamingServer(options);
    const socket = connect(Number(new URL(server.portForward(target)).port), "127.0.0.1");
    await new Promise((resolve) => socket.once("connect", resolve));
    const closed = new Promise((resolve) => socket.once("close", resolve));
    await server.close();
    await closed;
  });
});
