/** ListPodSandbox, ListContainers: filters and what an item says. */
import { beforeAll, describe, expect } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { clause } from "./clause.ts";
import { codes, forever, type PodHandle, refused, unique, unknownId, useCri } from "./cri.ts";

const cri = useCri();
const mark = unique("mark");
let ready: PodHandle;
let stopped: PodHandle;
let created: string;
let running: string;
let exited: string;

beforeAll(async () => {
  ready = await cri.lastingPod({ labels: { mark, role: "ready" } });
  stopped = await cri.lastingPod({ labels: { mark, role: "stopped" } });
  const labels = (role: string): Message => ({ labels: { mark, role } });
  created = await cri.create(ready, cri.containerConfig(["/bin/true"], labels("created")));
  running = await cri.run(ready, cri.containerConfig(forever, labels("running")));
  exited = await cri.run(stopped, cri.containerConfig(["/bin/true"], labels("exited")));
  await cri.exited(exited);
  await cri.runtime("StopPodSandbox", { pod_sandbox_id: stopped.id });
});

const ids = (items: readonly Message[]): string[] => items.map((item) => item.id).sort();
const sandboxIds = async (filter?: Message): Promise<string[]> => ids(await cri.sandboxes(filter));
const containerIds = async (filter?: Message): Promise<string[]> => ids(await cri.containers(filter));

describe("ListPodSandbox", () => {
  clause("without a filter all sandboxes are listed", async () => {
    const all = await sandboxIds();
    expect(all).toEqual(expect.arrayContaining([ready.id, stopped.id]));
    expect(new Set(all).size).toBe(all.length);
    expect(await sandboxIds({})).toEqual(all);
  });

  clause("an item has id, metadata, state, created_at, labels and annotations", async () => {
    const [item] = await cri.sandboxes({ id: ready.id });
    const { metadata, labels, annotations } = ready.config;
    expect(item).toMatchObject({ id: ready.id, metadata, labels, annotations, state: "SANDBOX_READY" });
    expect(item.created_at).toBe((await cri.podStatus(ready.id)).created_at);
  });

  clause("filter.id takes a full id or a prefix; one that fits nothing gives an empty list, not an error", async () => {
    expect(await sandboxIds({ id: ready.id })).toEqual([ready.id]);
    expect(await sandboxIds({ id: ready.id.slice(0, 16) })).toEqual([ready.id]);
    expect(await sandboxIds({ id: unknownId })).toEqual([]);
    expect(await sandboxIds({ id: "no such id" })).toEqual([]);
  });

  clause("an absent state is any state, a present one filters, its zero value being READY", async () => {
    const label_selector = { mark };
    expect(await sandboxIds({ label_selector })).toEqual([ready.id, stopped.id].sort());
    expect(await sandboxIds({ label_selector, state: {} })).toEqual([ready.id]);
    expect(await sandboxIds({ label_selector, state: { state: "SANDBOX_NOTREADY" } })).toEqual([stopped.id]);
  });

  clause("labels must match exactly, all of them", async () => {
    expect(await sandboxIds({ label_selector: { mark, role: "ready" } })).toEqual([ready.id]);
    expect(await sandboxIds({ label_selector: { mark: mark.slice(0, -1) } })).toEqual([]);
    expect(await sandboxIds({ label_selector: { mark, role: "other" } })).toEqual([]);
    expect(await sandboxIds({ label_selector: { mark, missing: "" } })).toEqual([]);
  });

  clause("all parts of a filter must hold", async () => {
    const state = { state: "SANDBOX_READY" };
    expect(await sandboxIds({ id: ready.id, state, label_selector: { mark } })).toEqual([ready.id]);
    expect(await sandboxIds({ id: stopped.id, state, label_selector: { mark } })).toEqual([]);
    expect(await sandboxIds({ id: ready.id, state, label_selector: { role: "stopped" } })).toEqual([]);
  });
});

describe("ListContainers", () => {
  clause("containers in every state are listed unless a filter says otherwise", async () => {
    expect(await containerIds()).toEqual(expect.arrayContaining([created, running, exited]));
    expect(await containerIds({ label_selector: { mark } })).toEqual([created, running, exited].sort());
  });

  clause("an item has its sandbox, metadata, state, created_at, labels and annotations", async () => {
    const [item] = await cri.containers({ id: running });
    const { metadata, labels, annotations, created_at } = await cri.status(running);
    expect(item).toMatchObject({ id: running, pod_sandbox_id: ready.id, metadata, labels, annotations, created_at });
    expect(item.state).toBe("CONTAINER_RUNNING");
    expect(labels).toEqual({ mark, role: "running" });
  });

  clause("an item's image is the image spec as given at creation, and image_ref is not empty", async () => {
    const [item] = await cri.containers({ id: running });
    expect(item.image.image).toBe(cri.endpoint.imageId);
    expect(item.image_ref).not.toBe("");
  });

  clause("user_specified_image is kept as given", { since: "1.28" }, async () => {
    const [item] = await cri.containers({ id: running });
    expect(item.image.user_specified_image).toBe(cri.endpoint.image);
  });

  clause("image_id is what PullImage gave as image_ref", { since: "1.30" }, async () => {
    const [item] = await cri.containers({ id: running });
    expect(item.image_id).toBe(cri.endpoint.imageId);
  });

  clause("filter.id takes a full id or a prefix; one that fits nothing gives an empty list", async () => {
    expect(await containerIds({ id: running })).toEqual([running]);
    expect(await containerIds({ id: running.slice(0, 16) })).toEqual([running]);
    expect(await containerIds({ id: unknownId })).toEqual([]);
  });

  clause("filter.pod_sandbox_id takes a full id or a prefix; one that fits nothing gives an empty list", async () => {
    expect(await containerIds({ pod_sandbox_id: ready.id })).toEqual([created, running].sort());
    expect(await containerIds({ pod_sandbox_id: stopped.id.slice(0, 16) })).toEqual([exited]);
    expect(await containerIds({ pod_sandbox_id: unknownId })).toEqual([]);
  });

  clause("a present state filters, its zero value being CREATED", async () => {
    const label_selector = { mark };
    expect(await containerIds({ label_selector, state: {} })).toEqual([created]);
    expect(await containerIds({ label_selector, state: { state: "CONTAINER_RUNNING" } })).toEqual([running]);
    expect(await containerIds({ label_selector, state: { state: "CONTAINER_EXITED" } })).toEqual([exited]);
    expect(await containerIds({ label_selector, state: { state: "CONTAINER_UNKNOWN" } })).toEqual([]);
  });

  clause("all parts of a filter must hold", async () => {
    const state = { state: "CONTAINER_RUNNING" };
    const label_selector = { mark, role: "running" };
    expect(await containerIds({ id: running, pod_sandbox_id: ready.id, state, label_selector })).toEqual([running]);
    expect(await containerIds({ id: running, pod_sandbox_id: stopped.id, state, label_selector })).toEqual([]);
    expect(await containerIds({ id: created, state })).toEqual([]);
    expect(await containerIds({ id: running, label_selector: { role: "created" } })).toEqual([]);
  });

  clause("an ambiguous prefix is an error other than NotFound, and in a filter it matches nothing", async () => {
    const pod = await cri.pod();
    // Seventeen ids have at most sixteen first characters.
    for (let i = 0; i < 17; i++) await cri.create(pod, cri.containerConfig(["/bin/true"]));
    const firsts = (await containerIds()).map((id) => id.slice(0, 1));
    const shared = firsts.find((first, at) => firsts.indexOf(first) !== at) ?? "";
    await refused(
      cri.status(shared),
      codes.any.filter((code) => !(codes.missing as readonly number[]).includes(code)),
    );
    expect(await containerIds({ id: shared })).toEqual([]);
  });
});
