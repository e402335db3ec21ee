import { lstatSync, mkdirSync, statSync, unlinkSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { dirname } from "node:path";
import { errnoName, messageOf, RuntimeError } from "./errors.ts";

/** sockaddr_un has 108 bytes with the closing NUL. */
const longestPath = 107;
const probeMs = 2000;

/** Whoever can write to the directory can put a socket of his own in the place of ours. */
function checkDirectory(path: string, mode: number): void {
  mkdirSync(path, { recursive: true, mode });
  const { mode: bits, uid } = statSync(path);
  const sticky = (bits & 0o1000) !== 0;
  if (uid !== 0 && uid !== process.getuid?.()) {
    throw new RuntimeError("failed_precondition", `${path} belongs to user ${uid}; the socket's directory must be root's`);
  }
  if ((bits & 0o022) !== 0 && !sticky) {
    throw new RuntimeError("failed_precondition", `${path} is writable by others; chmod go-w it, or listen elsewhere`);
  }
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.setTimeout(probeMs, () => {
      // It accepted, or its backlog is full: somebody holds it.
      socket.destroy();
      resolve(true);
    });
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", (error) => {
      if (["ECONNREFUSED", "ENOENT"].includes(errnoName(error) ?? "")) resolve(false);
      else if (errnoName(error) === "EAGAIN") resolve(true);
      else reject(new RuntimeError("failed_precondition", `${path}: ${messageOf(error)}`, {}, error));
    });
  });
}

/** Removes a socket that a killed daemon left behind, after proving that nobody answers at it. */
async function removeStale(path: string): Promise<void> {
  const entry = lstatSync(path, { throwIfNoEntry: false });
  if (entry === undefined) return;
  if (!entry.isSocket())
    throw new RuntimeError("failed_precondition", `${path} exists and is not a socket; remove it or listen elsewhere`);
  if (await answers(path))
    throw new RuntimeError("failed_precondition", `another process answers at ${path}; stop it or listen elsewhere`);
  unlinkSync(path);
}

/**
 * Listens on a unix socket that only root can connect to (0600). Its directory is made with `directoryMode` when it is missing.
 * @throws RuntimeError failed_precondition when the path is taken or not safe.
 */
export async function listenUnix(path: string, onConnection: (socket: Socket) => void, directoryMode = 0o755): Promise<Server> {
  if (Buffer.byteLength(path) > longestPath) {
    throw new RuntimeError("invalid_argument", `socket path ${path} is longer than ${longestPath} bytes`);
  }
  checkDirectory(dirname(path), directoryMode);
  await removeStale(path);
  const server = createServer(onConnection);
  const listening = new Promise<void>((resolve, reject) => {
    server.once("listening", resolve);
    server.once("error", (error) =>
      reject(new RuntimeError("failed_precondition", `cannot listen on ${path}: ${messageOf(error)}`, {}, error)),
    );
  });
  // The path is bound within listen(): nothing else runs under this mask, and the socket is never there with another mode.
  const umask = process.umask(0o177);
  try {
    server.listen({ path, backlog: 512 });
  } finally {
    process.umask(umask);
  }
  await listening;
  return server;
}
