import type { Send } from "../cri/stream-chunks.ts";
import {
  type EventsRequest,
  type EventsResponse,
  type ExamineRequest,
  type Finding,
  type InfoResponse,
  type NodeServiceServer,
  NodeServiceService,
} from "../gen/caisson/v1/node.ts";
import { RuntimeError } from "../lib/errors.ts";
import type { StoredEvent } from "../store/store.ts";
import type { CallContext, Gate } from "./call.ts";
import type { Service } from "./grpc-server.ts";
import { serverStream } from "./server-stream.ts";
import { unary } from "./unary.ts";

/** What the node service needs of the daemon. */
export interface NodeFacts {
  info(): InfoResponse;
  /** The full id that the text stands for. @throws not_found, invalid_argument for an ambiguous prefix. */
  resolve(idOrPrefix: string): string;
  examine(context: CallContext, request: ExamineRequest): Promise<readonly Finding[]>;
  timeline(objectId: string): readonly StoredEvent[];
  /** Sends the event log from where the request says until the caller leaves. */
  events(context: CallContext, request: EventsRequest, send: Send<EventsResponse>): Promise<void>;
}

const detailText = (detail: StoredEvent["detail"]): Record<string, string> =>
  Object.fromEntries(Object.entries(detail).map(([name, value]) => [name, String(value)]));

/** caisson.v1.NodeService. Info is answered at any time: it tells whether the rest is. */
export function nodeService(gate: Gate, facts: NodeFacts): Service {
  const implementation: NodeServiceServer = {
    info: unary("Info", { ...gate, requireReady: () => {} }, () => facts.info()),
    examine: unary("Examine", gate, async (context, request) => ({ findings: [...(await facts.examine(context, request))] })),
    events: serverStream("Events", gate, (context, request, send) => facts.events(context, request, send)),
    timeline: unary("Timeline", gate, (_context, { objectId: asked }) => {
      const objectId = facts.resolve(asked);
      const events = facts.timeline(objectId);
      if (events.length === 0) throw new RuntimeError("not_found", `nothing is recorded of ${asked}`);
      return {
        objectId,
        events: events.map((event) => ({
          sequence: event.sequence,
          at: event.atNs,
          kind: event.kind,
          detail: detailText(event.detail),
        })),
      };
    }),
  };
  return { definition: NodeServiceService, implementation };
}
