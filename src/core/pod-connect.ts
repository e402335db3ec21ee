/** Connections to what listens in a pod, for port forwarding. */
import { Socket } from "node:net";
import { RuntimeError } from "../lib/errors.ts";
import { addon } from "../native/addon.ts";
import type { RunStep } from "./namespace/pod-namespaces.ts";
import type { PodShape } from "./namespace/pod-shape.ts";
import type { Op } from "./plan.ts";
import { nsKind, podPin } from "./plan-schema.ts";

/** The socket is made by a child that has joined the pod's network namespace, and sent back. Pure. */
export function planConnect(pod: Pick<PodShape, "network">, port: number): RunStep {
  const join: readonly Op[] = pod.network === "new" ? [{ op: "join-ns", slot: podPin.net, kind: nsKind.net }] : [];
  return {
    cloneKinds: 0,
    plan: [{ op: "clean-start" }, ...join, { op: "connect", out: 0, port }, { op: "export", slot: 0 }],
  };
}

/** Takes the descriptor of a connected TCP socket. Either direction may end before the other. */
export function socketOf(podId: string, [fd, ...rest]: readonly number[]): Socket {
  for (const other of rest) addon.close(other);
  if (fd === undefined) throw new RuntimeError("internal", `the shim of pod ${podId} sent no socket`);
  const socket = new Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
  socket.setNoDelay(true);
  return socket;
}
