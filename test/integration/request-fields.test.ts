/** Every field of every CRI request: a wrong value gets its gRPC code and words, or there is a reason why none is wrong. */

import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { descriptors } from "../../src/gen/descriptors.ts";
import { failure } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, takeInventory } from "../helpers/leak-check.ts";
import { type Ground, imageMethods, requestFields, type Wrong } from "../helpers/request-fields.ts";

/** `Message.field` of all that a request of CRI can contain. */
function fieldsOfRequests(): string[] {
  const set = fromBinary(FileDescriptorSetSchema, Buffer.from(descriptors, "base64"));
  const file = set.file.find(({ name }) => name === "cri/v1/api.proto");
  const messages = new Map(file?.messageType.map((message) => [`.runtime.v1.${message.name}`, message]));
  const found = new Set<string>();
  const seen = new Set<string>();
  const walk = (type: string): void => {
    const message = messages.get(type);
    if (message === undefined || seen.has(type)) return;
    seen.add(type);
    for (const field of message.field) {
      found.add(`${message.name}.${field.name}`);
      walk(field.typeName);
    }
  };
  for (const service of file?.service ?? []) for (const { inputType } of service.method) walk(inputType);
  return [...found];
}

it("none is forgotten", () => {
  expect(fieldsOfRequests().length).toBeGreaterThan(200);
  expect(Object.keys(requestFields).sort()).toEqual(fieldsOfRequests().sort());
});

describe("a wrong value of", () => {
  let node: CriNode;
  let ground: Ground;
  let made = 0;
  beforeAll(async () => {
    node = await CriNode.start();
    const pod = node.podConfig("ground");
    const podId = await node.runPod(pod);
    const containerId = await node.run(podId, pod, node.containerConfig("running", ["/bin/sleep", "1000"]));
    ground = {
      podId,
      containerId,
      emptyDirectory: mkdtempSync(join(node.logs, "empty-")),
      pod: () => node.podConfig(`wrong-${++made}`),
      container: () => node.containerConfig(`wrong-${++made}`, ["/bin/sleep", "1000"]),
    };
  });
  afterAll(async () => {
    await node[Symbol.asyncDispose]();
  });

  const cases = Object.entries(requestFields).flatMap(([field, rule]) =>
    typeof rule === "string"
      ? []
      : rule.map((wrong, index): [string, Wrong] => [`${field} in ${wrong.method} (${index})`, wrong]),
  );
  it.each(cases)("%s", async (_, { method, request, code, text }) => {
    const before = takeInventory();
    const service = imageMethods.has(method) ? "image" : "runtime";
    const got = await failure(node.client[service](method, request(ground)));
    expect([got.code, got.details]).toEqual([code, expect.stringMatching(text)]);
    await expectNoLeaks(before);
  });
});
