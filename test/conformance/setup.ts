/**
 * Runs once before the suite: takes the endpoint of CAISSON_CRI_ENDPOINT, or starts a daemon, and finds out what it can. A registry on
 * loopback is started either way; an endpoint that cannot pull from it must be given an image by CAISSON_CRI_IMAGE.
 */

import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { CriClient, failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { Daemon } from "../helpers/daemon.ts";
import { expectNoLeaks, takeInventory } from "../helpers/leak-check.ts";
import { buildBusyboxImage } from "../helpers/oci-image.ts";
import { pushImage, startRegistry } from "../helpers/registry.ts";
import { Bridge } from "./bridge.ts";
import { removeCgroups } from "./cgroup.ts";
import { type Ability, type Endpoint, rpcSince } from "./endpoint.ts";
import { pushMadeImages } from "./made-images.ts";

// biome-ignore lint/style/noDefaultExport: vitest takes a global setup from the default export
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const before = takeInventory();
  const stack = new AsyncDisposableStack();
  try {
    project.provide("endpoint", await open(stack));
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
  return async () => {
    await stack.disposeAsync();
    await expectNoLeaks(before);
  };
}

async function open(stack: AsyncDisposableStack): Promise<Endpoint> {
  const scratch = mkdtempSync(join(tmpdir(), "caisson-conformance-"));
  stack.defer(() => rmSync(scratch, { recursive: true, force: true }));
  mkdirSync(join(scratch, "logs"));
  const cgroupParent = `/caisson-conformance-${randomBytes(4).toString("hex")}`;
  stack.defer(() => removeCgroups(cgroupParent));
  const registry = await startRegistry();
  stack.defer(() => registry.stop());
  const made = await pushImage(registry, "conformance/busybox", "1", buildBusyboxImage(join(scratch, "image")));
  await pushMadeImages(registry, scratch);

  const given = process.env.CAISSON_CRI_ENDPOINT;
  const cdi = given === undefined ? join(scratch, "cdi") : "/var/run/cdi";
  const address = given ?? (await ownDaemon(stack, cdi));
  const client = new CriClient(address);
  stack.defer(() => client.close());

  const pulled = await tryPull(client, made);
  if (pulled !== undefined && given !== undefined) stack.defer(() => removeImages(client, registry.host));
  const image = process.env.CAISSON_CRI_IMAGE ?? made;
  const imageId = image === made ? pulled : await tryPull(client, image);
  if (imageId === undefined) {
    throw new Error(`${address} cannot pull ${image}; give an image with a shell that it can pull by CAISSON_CRI_IMAGE`);
  }
  const version = await client.runtime("Version", { version: "0.1.0" });
  return {
    address,
    own: given === undefined,
    name: `${version.runtime_name} ${version.runtime_version}`,
    release: given === undefined ? 37 : await releaseOf(client),
    image,
    imageId,
    registry: pulled === undefined ? null : registry.host,
    abilities: await abilitiesOf(client),
    cdi,
    scratch,
    cgroupParent,
  };
}

async function ownDaemon(stack: AsyncDisposableStack, cdi: string): Promise<string> {
  const bridge = stack.use(new Bridge());
  const daemon = stack.use(await Daemon.start({ config: `[cdi]\nspec_dirs = ["${cdi}"]\n` }));
  bridge.configureIn(daemon.cniConf);
  for (let tries = 0; !(await abilitiesOf(daemon.client)).includes("pod network"); tries++) {
    if (tries > 200) throw new Error("the daemon did not take the network configuration");
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  await makeBridge(daemon.client);
  return `unix://${daemon.socket}`;
}

/** The first pod on a bridge makes it: before any file takes stock of the machine. */
async function makeBridge(client: CriClient): Promise<void> {
  const metadata = { name: "first", uid: "first", namespace: "conformance", attempt: 0 };
  const linux = { security_context: { namespace_options: { network: "POD", pid: "CONTAINER", ipc: "POD" } } };
  const request = await client.runtime("RunPodSandbox", { config: { metadata, hostname: "first", linux } });
  await client.runtime("StopPodSandbox", request);
  await client.runtime("RemovePodSandbox", request);
}

async function tryPull(client: CriClient, reference: string): Promise<string | undefined> {
  try {
    return (await client.image("PullImage", { image: { image: reference } })).image_ref;
  } catch (error) {
    console.error(`the endpoint could not pull ${reference}: ${error}`);
    return undefined;
  }
}

async function removeImages(client: CriClient, host: string): Promise<void> {
  const { images } = await client.image("ListImages", {});
  for (const { id, repo_tags, repo_digests } of images) {
    const names: string[] = [...repo_tags, ...repo_digests];
    if (names.some((name) => name.startsWith(`${host}/`))) await client.image("RemoveImage", { image: { image: id } });
  }
}

/** A server whose interface description lacks a method says "unknown method"; one that chose not to build it says something else. */
async function releaseOf(client: CriClient): Promise<number> {
  let release = 22;
  for (const [rpc, since] of Object.entries(rpcSince)) {
    if (rpc === "GetContainerEvents" || rpc === "StreamContainers") continue;
    const answer = await failure(client.runtime(rpc, {})).catch(() => undefined);
    const known = answer === undefined || answer.code !== grpcStatus.UNIMPLEMENTED || !/unknown method/i.test(answer.details);
    if (known) release = Math.max(release, since);
  }
  return release;
}

async function abilitiesOf(client: CriClient): Promise<Ability[]> {
  const { status, runtime_handlers: handlers, features } = await client.runtime("Status", {});
  const standard = handlers.find((handler: Message) => handler.name === "")?.features;
  const has: Record<Ability, boolean> = {
    "pod network": status.conditions.some((c: Message) => c.type === "NetworkReady" && c.status),
    "user namespaces": standard?.user_namespaces === true,
    "recursive read-only mounts": standard?.recursive_read_only_mounts === true,
    "supplemental groups policy": features?.supplemental_groups_policy === true,
  };
  return (Object.keys(has) as Ability[]).filter((ability) => has[ability]);
}
