import { describe, expect, it } from "vitest";
import { sandbox, secured, securedPod, translate, userNamespace } from "./translate-fixture.ts";

const [POD, CONTAINER, NODE, TARGET] = [0, 1, 2, 3] as const;
const namespaces = (namespaceOptions: object) => securedPod({ namespaceOptions });
const inContainer = (namespaceOptions: object) => secured({ namespaceOptions });

describe("namespaces of a pod", () => {
  it("are its own by default, with a shared PID namespace", () => {
    expect(sandbox().spec).toMatchObject({ network: "new", ipc: "new", uts: "new", pid: "pod", user: null });
  });

  it("follow the options", () => {
    expect(sandbox(namespaces({ pid: CONTAINER })).spec.pid).toBe("none");
    expect(sandbox(namespaces({ pid: NODE })).spec.pid).toBe("none");
    expect(sandbox(namespaces({ ipc: NODE })).spec.ipc).toBe("host");
  });

  it("share the node's UTS with its network, and have then no pin and no CNI", () => {
    const { spec, network } = sandbox(namespaces({ network: NODE }));
    expect(spec).toMatchObject({ network: "host", uts: "host", netnsPath: null });
    expect(network).toBeNull();
  });

  it.each([{ network: CONTAINER }, { network: TARGET }, { ipc: CONTAINER }, { ipc: TARGET }, { pid: TARGET }, { pid: 9 }])(
    "refuse %j",
    (asked) => {
      expect(() => sandbox(namespaces(asked))).toThrow(expect.objectContaining({ code: "invalid_argument" }));
    },
  );
});

describe("the user namespace", () => {
  it("has one line of each kind", () => {
    expect(sandbox(namespaces(userNamespace)).spec.user).toEqual({
      uid: [{ containerID: 0, hostID: 100_000, size: 65_536 }],
      gid: [{ containerID: 0, hostID: 200_000, size: 65_536 }],
    });
  });

  it("is none without options or with mode NODE", () => {
    expect(sandbox(namespaces({ usernsOptions: { mode: NODE } })).spec.user).toBeNull();
  });

  const line = { containerId: 0, hostId: 100_000, length: 10 };
  it.each([
    ["no mapping", { mode: POD }],
    ["no gid mapping", { mode: POD, uids: [line] }],
    ["two lines", { mode: POD, uids: [line, { ...line, containerId: 10 }], gids: [line] }],
    ["length 0", { mode: POD, uids: [{ ...line, length: 0 }], gids: [line] }],
    ["a line without root", { mode: POD, uids: [{ ...line, containerId: 1 }], gids: [line] }],
    ["a line beyond the last id", { mode: POD, uids: [{ ...line, hostId: 0xffff_fff0, length: 100 }], gids: [line] }],
    ["mappings with NODE", { mode: NODE, uids: [line], gids: [line] }],
    ["mode CONTAINER", { mode: CONTAINER, uids: [line], gids: [line] }],
    ["mode CONTAINER without mappings", { mode: CONTAINER }],
    ["mode TARGET", { mode: TARGET, uids: [line], gids: [line] }],
  ])("refuses %s", (_what, usernsOptions) => {
    expect(() => sandbox(namespaces({ usernsOptions }))).toThrow(expect.objectContaining({ code: "invalid_argument" }));
  });

  it("refuses the node's IPC or PID namespace beside it, and allows its network", () => {
    expect(() => sandbox(namespaces({ ...userNamespace, ipc: NODE }))).toThrow(/IPC/);
    expect(() => sandbox(namespaces({ ...userNamespace, pid: NODE }))).toThrow(/PID/);
    expect(sandbox(namespaces({ ...userNamespace, network: NODE })).spec).toMatchObject({ network: "host" });
  });

  it("must be the same for the container", async () => {
    const pod = namespaces(userNamespace);
    await expect(translate({ pod, config: inContainer({ ...userNamespace }) })).resolves.toBeDefined();
    await expect(translate({ pod, config: inContainer({}) })).rejects.toThrow(/userns_options of the container differ/);
    await expect(translate({ config: inContainer(userNamespace) })).rejects.toThrow(/userns_options of the container differ/);
    await expect(translate({ pod })).resolves.toMatchObject({
      oci: { linux: { uidMappings: [{ hostID: 100_000 }], gidMappings: [{ hostID: 200_000 }] } },
    });
  });

  it("must map the container's user and groups", async () => {
    const pod = namespaces(userNamespace);
    const run = (context: object) => translate({ pod, config: secured({ namespaceOptions: userNamespace, ...context }) });
    await expect(run({ runAsUser: { value: 70_000n } })).rejects.toThrow(/user 70000 is not mapped/);
    await expect(run({ supplementalGroups: [65_536n] })).rejects.toThrow(/group 65536 is not mapped/);
    await expect(run({ runAsUser: { value: 65_535n } })).resolves.toBeDefined();
  });
});

describe("the container's PID namespace", () => {
  const kind = async (pod: object, container: object | undefined) =>
    (await translate({ pod: namespaces(pod), config: container === undefined ? {} : inContainer(container) })).pidNamespace;

  it("is the pod's, its own, the node's or another container's", async () => {
    expect(await kind({}, { pid: POD })).toEqual({ kind: "pod" });
    expect(await kind({ pid: CONTAINER }, { pid: CONTAINER })).toEqual({ kind: "private" });
    expect(await kind({ pid: NODE }, { pid: NODE })).toEqual({ kind: "host" });
    expect(await kind({}, { pid: TARGET, targetId: "x" })).toEqual({ kind: "target", containerId: "x" });
  });

  it("is the node's when the pod has none but that", async () => {
    expect(await kind({ pid: NODE }, { pid: POD })).toEqual({ kind: "host" });
  });

  it("follows the sandbox when the container says nothing", async () => {
    expect(await kind({ pid: CONTAINER }, undefined)).toEqual({ kind: "private" });
    expect(await kind({ pid: NODE }, undefined)).toEqual({ kind: "host" });
    expect(await kind({}, undefined)).toEqual({ kind: "pod" });
  });

  it("refuses a pod's namespace that is not there, and a target without a name", async () => {
    await expect(kind({ pid: CONTAINER }, { pid: POD })).rejects.toThrow(/sandbox was made without one/);
    await expect(kind({}, { pid: TARGET })).rejects.toThrow(/needs a target_id/);
    await expect(kind({}, { pid: 9 })).rejects.toThrow(/unknown pid namespace mode/);
  });

  it("cannot be the node's in a user namespace", async () => {
    const pod = { ...userNamespace };
    await expect(kind(pod, { ...userNamespace, pid: NODE })).rejects.toThrow(/user namespace cannot use the node's PID/);
  });
});

describe("a container that disagrees with its sandbox", () => {
  it("may not have the node's network or IPC when the sandbox has its own", async () => {
    await expect(translate({ config: inContainer({ network: NODE }) })).rejects.toThrow(
      /node's network namespace but its sandbox/,
    );
    await expect(translate({ config: inContainer({ ipc: NODE }) })).rejects.toThrow(/node's IPC namespace but its sandbox/);
  });

  it("gets the sandbox's when it leaves the default", async () => {
    const pod = namespaces({ network: NODE, ipc: NODE });
    await expect(translate({ pod, config: inContainer({}) })).resolves.toBeDefined();
  });
});
