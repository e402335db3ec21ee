/** proto/cri/v1/api.proto against the recorded facts of CRI v1: what clients compiled elsewhere put on the wire. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import {
  type DescriptorProto,
  type FieldDescriptorProto,
  FileDescriptorSetSchema,
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
} from "@bufbuild/protobuf/wkt";
import { describe, expect, it } from "vitest";
import { ImageServiceService, RuntimeServiceService } from "../../../src/gen/cri/v1/api.ts";
import { descriptors } from "../../../src/gen/descriptors.ts";

interface Fact {
  readonly name: string;
  readonly number: number;
  readonly json_name: string;
  readonly type: string;
  readonly label: "singular" | "repeated" | "map";
  readonly deprecated?: boolean;
}

interface Facts {
  readonly package: string;
  readonly counts: Record<"services" | "methods" | "messages" | "fields" | "enums", number>;
  readonly services: Record<
    string,
    {
      full_name: string;
      methods: {
        name: string;
        path: string;
        input: string;
        output: string;
        client_streaming: boolean;
        server_streaming: boolean;
      }[];
    }
  >;
  readonly messages: Record<string, { fields: Fact[] }>;
  readonly enums: Record<string, { values: { name: string; number: number }[] }>;
}

const facts = JSON.parse(readFileSync(join(import.meta.dirname, "cri-v1-wire.json"), "utf8")) as Facts;
const set = fromBinary(FileDescriptorSetSchema, Buffer.from(descriptors, "base64"));
const registry = createFileRegistry(set);
const file = set.file.find(({ name }) => name === "cri/v1/api.proto");
if (file === undefined) throw new Error("cri/v1/api.proto is not among the descriptors");

const prefix = `.${facts.package}.`;
const typeOf = (field: FieldDescriptorProto): string =>
  field.typeName !== "" ? field.typeName.replace(prefix, "") : (Type[field.type] ?? "").toLowerCase();

function asFact(message: DescriptorProto, field: FieldDescriptorProto): Required<Fact> {
  const entry = message.nestedType.find((nested) => `${prefix}${message.name}.${nested.name}` === field.typeName);
  const map = entry?.options?.mapEntry === true ? entry.field.map(typeOf) : undefined;
  expect(field.proto3Optional, `${message.name}.${field.name}`).toBe(false);
  return {
    name: field.name,
    number: field.number,
    json_name: field.jsonName,
    type: map === undefined ? typeOf(field) : `map<${map.join(", ")}>`,
    label: map !== undefined ? "map" : field.label === Label.REPEATED ? "repeated" : "singular",
    deprecated: field.options?.deprecated ?? false,
  };
}

it("has the package and the counts", () => {
  expect(file.package).toBe("runtime.v1");
  expect(file.syntax).toBe("proto3");
  const messages = file.messageType.length;
  const fields = file.messageType.flatMap((m) => m.field).length;
  const enums = file.enumType.length + file.messageType.flatMap((m) => m.enumType).length;
  const methods = file.service.flatMap((s) => s.method).length;
  expect({ services: file.service.length, methods, messages, fields, enums }).toEqual(facts.counts);
});

describe.each(Object.entries(facts.services))("service %s", (name, { methods }) => {
  it("has every method with its types and streams", () => {
    const service = file.service.find((s) => s.name === name);
    const ours = service?.method.map((m) => ({
      name: m.name,
      path: `/${facts.package}.${name}/${m.name}`,
      input: m.inputType.replace(prefix, ""),
      output: m.outputType.replace(prefix, ""),
      client_streaming: m.clientStreaming,
      server_streaming: m.serverStreaming,
    }));
    expect(ours).toEqual(methods);
  });

  it("is served under these paths", () => {
    const definition = name === "RuntimeService" ? RuntimeServiceService : ImageServiceService;
    const served = Object.values(definition).map(({ path, responseStream }) => ({ path, stream: responseStream }));
    expect(served).toEqual(methods.map(({ path, server_streaming: stream }) => ({ path, stream })));
  });
});

it.each(Object.entries(facts.messages))("message %s has every field", (name, { fields }) => {
  const message = file.messageType.find((m) => m.name === name);
  if (message === undefined) throw new Error("it is not there");
  const expected = fields.map((f) => ({
    name: f.name,
    number: f.number,
    json_name: f.json_name,
    type: f.type,
    label: f.label,
    deprecated: f.deprecated ?? false,
  }));
  const ours = message.field.map((field) => asFact(message, field));
  const byNumber = (a: { number: number }, b: { number: number }): number => a.number - b.number;
  expect(ours.sort(byNumber)).toEqual(expected.sort(byNumber));
});

it.each(Object.entries(facts.enums))("enum %s has every value", (name, { values }) => {
  const ours = registry.getEnum(`${facts.package}.${name}`)?.proto.value.map((v) => ({ name: v.name, number: v.number }));
  expect(ours).toEqual(values.map(({ name: value, number }) => ({ name: value, number })));
});

it("has no message and no enum beyond these", () => {
  expect(file.messageType.map((m) => m.name).sort()).toEqual(Object.keys(facts.messages).sort());
  const nested = file.messageType.flatMap((m) => m.enumType.map((e) => `${m.name}.${e.name}`));
  expect([...file.enumType.map((e) => e.name), ...nested].sort()).toEqual(Object.keys(facts.enums).sort());
});
