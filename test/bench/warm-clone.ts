/**
 * Time to the first answered request of a Python server that takes about a second to boot: started plainly, and made from one
 * checkpoint of a booted one. Needs root, python3 and CRIU in PATH.   node test/bench/warm-clone.ts [ROUNDS]
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Container, Process } from "../../src/core/library/public.ts";
import { LibraryPlace } from "../helpers/library-place.ts";
import { median } from "./pod-round.ts";

const rounds = Number(process.argv[2] ?? 5);
const port = 18_571;
const server = `
import ssl, asyncio, email, xml.dom.minidom, unittest.mock, http.server, sqlite3, multiprocessing
table = [dict(a=i, b=str(i)) for i in range(150000)]
total = sum(i * i % 7 for i in range(9000000))
http.server.ThreadingHTTPServer(("127.0.0.1", ${port}), http.server.SimpleHTTPRequestHandler).serve_forever()
`;
const fromHost = ["/usr", "/lib", "/lib64"];

await using place = new LibraryPlace();
for (const directory of fromHost) mkdirSync(join(place.rootfs, directory), { recursive: true });

async function create(): Promise<Container> {
  return await place.create({
    // The node's network: the server is reached at once.
    namespaces: [{ type: "mnt" }, { type: "uts" }, { type: "ipc" }, { type: "pid" }],
    mounts: [
      ...(place.config("bench").mounts ?? []),
      ...fromHost.map((path) => ({ source: path, destination: path, device: "bind", flags: ["rbind", "ro"] })),
    ],
  });
}

async function answered(): Promise<void> {
  for (;;) {
    try {
      await (await fetch(`http://127.0.0.1:${port}/`)).text();
      return;
    } catch {
      await sleep(2);
    }
  }
}

async function timed(
  begin: (container: Container) => Promise<void>,
): Promise<{ readonly ms: number; readonly container: Container }> {
  const container = await create();
  const since = performance.now();
  await begin(container);
  await answered();
  return { ms: Math.round(performance.now() - since), container };
}

async function end(container: Container): Promise<void> {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
}

const python = (): Process => new Process({ args: ["/usr/bin/python3", "-c", server], env: ["PATH=/usr/bin"] });
const run = async (container: Container): Promise<void> => await container.run(python());

const plain: number[] = [];
for (let round = 0; round < rounds; round++) {
  const { ms, container } = await timed(run);
  plain.push(ms);
  await end(container);
}
const { container: booted } = await timed(run);
const options = { imagesDirectory: join(place.top, "images"), tcpEstablished: true };
const since = performance.now();
await booted.checkpoint(options);
console.log(`checkpoint: ${Math.round(performance.now() - since)} ms`);
await booted.destroy();
const clones: number[] = [];
for (let round = 0; round < rounds; round++) {
  const { ms, container } = await timed((one) => one.restore(python(), options));
  clones.push(ms);
  await end(container);
}
const [started, cloned] = [median(plain), median(clones)];
console.log(
  `first answered request of a Python server: plain start ${started} ms (${plain.join(", ")}), clone ${cloned} ms (${clones.join(", ")}): ${(started / cloned).toFixed(1)}x`,
);
