/** Writes src/gen/message-shapes.ts: what each field of each message looks like on the wire, for the check of what clients send. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createFileRegistry, type DescField, type DescMessage, fromBinary, ScalarType } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { descriptors } from "../src/gen/descriptors.ts";

const scalarShapes: Readonly<Partial<Record<ScalarType, string>>> = {
  [ScalarType.STRING]: "string",
  [ScalarType.BYTES]: "bytes",
  [ScalarType.DOUBLE]: "fixed64",
  [ScalarType.FIXED64]: "fixed64",
  [ScalarType.SFIXED64]: "fixed64",
  [ScalarType.FLOAT]: "fixed32",
  [ScalarType.FIXED32]: "fixed32",
  [ScalarType.SFIXED32]: "fixed32",
};
const scalar = (type: ScalarType): string => scalarShapes[type] ?? "varint";

/** Messages by name, map entries included under a name of our own. */
const shapes: Record<string, Record<number, string>> = {};

function fieldShape(field: DescField): string {
  switch (field.fieldKind) {
    case "scalar":
      return scalar(field.scalar);
    case "enum":
      return "varint";
    case "message":
      return field.message.typeName;
    case "list": {
      const inner =
        field.listKind === "scalar" ? scalar(field.scalar) : field.listKind === "enum" ? "varint" : field.message.typeName;
      return ["varint", "fixed32", "fixed64"].includes(inner) ? `packed ${inner}` : inner;
    }
    case "map": {
      const name = `${field.parent.typeName}.${field.name} entry`;
      const value =
        field.mapKind === "message" ? field.message.typeName : field.mapKind === "scalar" ? scalar(field.scalar) : "varint";
      shapes[name] = { 1: field.mapKey === ScalarType.STRING ? "map key" : scalar(field.mapKey), 2: value };
      return name;
    }
  }
}

function addMessage(message: DescMessage): void {
  shapes[message.typeName] = Object.fromEntries(message.fields.map((field) => [field.number, fieldShape(field)]));
  for (const nested of message.nestedMessages) addMessage(nested);
}

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, Buffer.from(descriptors, "base64")));
const requests: Record<string, string> = {};
for (const file of registry.files) {
  for (const message of file.messages) addMessage(message);
  for (const service of file.services) {
    for (const method of service.methods) requests[`/${service.typeName}/${method.name}`] = method.input.typeName;
  }
}

const constant = (about: string, name: string, type: string, value: unknown): string =>
  `/** ${about} */\nexport const ${name}: ${type} = ${JSON.stringify(value, null, 1)};\n`;
writeFileSync(
  join(import.meta.dirname, "../src/gen/message-shapes.ts"),
  `${constant(
    'Field numbers of each message: "string", "bytes", "varint", "fixed32", "fixed64", these three also "packed", "map key", or a message\'s name.',
    "messageShapes",
    "Readonly<Record<string, Readonly<Record<number, string>>>>",
    shapes,
  )}\n${constant("The message that each method takes, by path.", "requestMessages", "Readonly<Record<string, string>>", requests)}`,
);
