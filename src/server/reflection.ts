import { type handleBidiStreamingCall, type ServiceDefinition, status, type UntypedServiceImplementation } from "@grpc/grpc-js";
import { descriptors } from "../gen/descriptors.ts";
import {
  type ServerReflectionRequest,
  ServerReflectionResponse,
  ServerReflectionService,
} from "../gen/grpc/reflection/v1/reflection.ts";
import { messageOf } from "../lib/errors.ts";
import { toStatus } from "./status.ts";

type Answer = Omit<ServerReflectionResponse, "validHost" | "originalRequest">;

const failed = (errorCode: status, errorMessage: string): Answer => ({ errorResponse: { errorCode, errorMessage } });

/** Reads the descriptors when the first client asks: most nodes never do. */
async function loadAnswers(): Promise<(request: ServerReflectionRequest) => Answer> {
  const [{ createFileRegistry, fromBinary, toBinary }, { FileDescriptorProtoSchema, FileDescriptorSetSchema }] =
    await Promise.all([import("@bufbuild/protobuf"), import("@bufbuild/protobuf/wkt")]);
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, Buffer.from(descriptors, "base64")));
  const files = [...registry.files];
  const serviceNames = files.flatMap((file) => file.services.map((service) => service.typeName)).sort();
  // None of our files imports another: each is an answer by itself.
  const answerFile = (file: (typeof files)[number] | undefined, what: string): Answer =>
    file === undefined
      ? failed(status.NOT_FOUND, `${what} is not here`)
      : { fileDescriptorResponse: { fileDescriptorProto: [Buffer.from(toBinary(FileDescriptorProtoSchema, file.proto))] } };
  const fileOf = (symbol: string): (typeof files)[number] | undefined => {
    const name = symbol.replace(/^\./, "");
    // A method, a field or an enum's value belongs to the file of what it is in.
    const owner = name.slice(0, Math.max(0, name.lastIndexOf(".")));
    return registry.get(name)?.file ?? registry.get(owner)?.file;
  };
  return (request) => {
    if (request.listServices !== undefined) {
      return { listServicesResponse: { service: [...serviceNames, v1alpha].sort().map((name) => ({ name })) } };
    }
    if (request.fileByFilename !== undefined) {
      const name = request.fileByFilename;
      return answerFile(
        files.find((file) => file.proto.name === name),
        name,
      );
    }
    if (request.fileContainingSymbol !== undefined) {
      return answerFile(fileOf(request.fileContainingSymbol), request.fileContainingSymbol);
    }
    const extended = request.fileContainingExtension?.containingType ?? request.allExtensionNumbersOfType;
    if (extended !== undefined) return failed(status.NOT_FOUND, `${extended} has no extensions`);
    return failed(status.INVALID_ARGUMENT, "the request asks nothing");
  };
}

const v1alpha = "grpc.reflection.v1alpha.ServerReflection";

/** Lets generic clients explore the socket: both versions of the reflection service, with the descriptors exactly as compiled. */
export function reflectionServices(): { definition: ServiceDefinition; implementation: UntypedServiceImplementation }[] {
  let answers: ReturnType<typeof loadAnswers> | undefined;
  const info: handleBidiStreamingCall<ServerReflectionRequest, ServerReflectionResponse> = (call) => {
    answers ??= loadAnswers();
    const loaded = answers;
    const respond = async (): Promise<void> => {
      const answer = await loaded;
      for await (const request of call as AsyncIterable<ServerReflectionRequest>) {
        call.write(
          ServerReflectionResponse.fromPartial({ validHost: request.host, originalRequest: request, ...answer(request) }),
        );
      }
      call.end();
    };
    respond().catch((error: unknown) => call.emit("error", toStatus(new Error(`reflection: ${messageOf(error)}`))));
  };
  const implementation = { serverReflectionInfo: info };
  const old = {
    serverReflectionInfo: { ...ServerReflectionService.serverReflectionInfo, path: `/${v1alpha}/ServerReflectionInfo` },
  };
  return [
    { definition: ServerReflectionService, implementation },
    { definition: old, implementation },
  ];
}
