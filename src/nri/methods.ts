/** The two services of NRI as they are named and encoded on the wire, and the events that plugins subscribe to. */
import type { BinaryWriter } from "@bufbuild/protobuf/wire";
import { messageShapes } from "../gen/message-shapes.ts";
import * as api from "../gen/nri/v1alpha1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { faultOfMessage } from "../lib/wire-shape.ts";

const packageName = "nri.pkg.api.v1alpha1";
export const pluginService = `${packageName}.Plugin`;
export const runtimeService = `${packageName}.Runtime`;

interface MessageType<T> {
  encode(message: T): BinaryWriter;
  decode(bytes: Uint8Array): T;
}

/** What bytes say, if they are a message of this type. @throws RuntimeError invalid_argument. */
export function decodeMessage<T>(name: string, type: MessageType<T>, bytes: Buffer): T {
  const fault = faultOfMessage(messageShapes, `${packageName}.${name}`, bytes);
  if (fault !== undefined) throw new RuntimeError("invalid_argument", `${name} is malformed: ${fault}`);
  return type.decode(bytes);
}

const method = <Req, Res>(request: MessageType<Req>, responseName: string, response: MessageType<Res>) => ({
  encode: (message: Req): Uint8Array => request.encode(message).finish(),
  decode: (bytes: Buffer): Res => decodeMessage(responseName, response, bytes),
});

/** Methods of the plugin's service. */
export const methods = {
  Configure: method(api.ConfigureRequest, "ConfigureResponse", api.ConfigureResponse),
  Synchronize: method(api.SynchronizeRequest, "SynchronizeResponse", api.SynchronizeResponse),
  Shutdown: method(api.Empty, "Empty", api.Empty),
  RunPodSandbox: method(api.RunPodSandboxRequest, "RunPodSandboxResponse", api.RunPodSandboxResponse),
  UpdatePodSandbox: method(api.UpdatePodSandboxRequest, "UpdatePodSandboxResponse", api.UpdatePodSandboxResponse),
  PostUpdatePodSandbox: method(api.PostUpdatePodSandboxRequest, "PostUpdatePodSandboxResponse", api.PostUpdatePodSandboxResponse),
  StopPodSandbox: method(api.StopPodSandboxRequest, "StopPodSandboxResponse", api.StopPodSandboxResponse),
  RemovePodSandbox: method(api.RemovePodSandboxRequest, "RemovePodSandboxResponse", api.RemovePodSandboxResponse),
  CreateContainer: method(api.CreateContainerRequest, "CreateContainerResponse", api.CreateContainerResponse),
  PostCreateContainer: method(api.PostCreateContainerRequest, "PostCreateContainerResponse", api.PostCreateContainerResponse),
  StartContainer: method(api.StartContainerRequest, "StartContainerResponse", api.StartContainerResponse),
  PostStartContainer: method(api.PostStartContainerRequest, "PostStartContainerResponse", api.PostStartContainerResponse),
  UpdateContainer: method(api.UpdateContainerRequest, "UpdateContainerResponse", api.UpdateContainerResponse),
  PostUpdateContainer: method(api.PostUpdateContainerRequest, "PostUpdateContainerResponse", api.PostUpdateContainerResponse),
  StopContainer: method(api.StopContainerRequest, "StopContainerResponse", api.StopContainerResponse),
  RemoveContainer: method(api.RemoveContainerRequest, "RemoveContainerResponse", api.RemoveContainerResponse),
  StateChange: method(api.StateChangeEvent, "Empty", api.Empty),
  ValidateContainerAdjustment: method(
    api.ValidateContainerAdjustmentRequest,
    "ValidateContainerAdjustmentResponse",
    api.ValidateContainerAdjustmentResponse,
  ),
} as const;

export type MethodName = keyof typeof methods;
export type RequestOf<M extends MethodName> = Parameters<(typeof methods)[M]["encode"]>[0];
export type ResponseOf<M extends MethodName> = ReturnType<(typeof methods)[M]["decode"]>;

/** The number of each event; a plugin subscribes to it by bit number - 1. */
export const events = {
  RunPodSandbox: 1,
  StopPodSandbox: 2,
  RemovePodSandbox: 3,
  CreateContainer: 4,
  PostCreateContainer: 5,
  StartContainer: 6,
  PostStartContainer: 7,
  UpdateContainer: 8,
  PostUpdateContainer: 9,
  StopContainer: 10,
  RemoveContainer: 11,
  UpdatePodSandbox: 12,
  PostUpdatePodSandbox: 13,
  ValidateContainerAdjustment: 14,
} as const satisfies Partial<Record<MethodName, api.Event>>;

export type EventName = keyof typeof events;
export const eventBit = (event: EventName): number => 1 << (events[event] - 1);
export const everyEvent = Object.keys(events).reduce((mask, event) => mask | eventBit(event as EventName), 0);

/** Events that plugins of before NRI 0.11 have no method for: they get a StateChange. Their answers say nothing. */
export const notices = [
  "RunPodSandbox",
  "PostUpdatePodSandbox",
  "StopPodSandbox",
  "RemovePodSandbox",
  "PostCreateContainer",
  "StartContainer",
  "PostStartContainer",
  "PostUpdateContainer",
  "RemoveContainer",
] as const satisfies readonly EventName[];
export type NoticeName = (typeof notices)[number];
export const isNotice = (event: string): event is NoticeName => (notices as readonly string[]).includes(event);
