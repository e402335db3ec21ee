/** What ContainerStatus says of a container, and what its process sees of its config. */
import { mkdirSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { describe, expect } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { clause } from "./clause.ts";
import { codes, forever, now, refused, useCri } from "./cri.ts";

const cri = useCri();
const env = (pairs: Record<string, string>): Message[] =>
  Object.entries(pairs).map(([key, value]) => ({ key, value: Buffer.from(value) }));
const made = async (name: string): Promise<Message> => ({
  image: { image: await cri.pull(`${cri.endpoint.registry}/conformance/${name}:1`) },
});

describe("ContainerStatus", () => {
  clause("it has what the kubelet insists on: id, metadata.name, created_at, image and image_ref", async () => {
    const config = cri.containerConfig(forever);
    const before = now() - 1_000_000_000n;
    const id = await cri.create(await cri.sharedPod(), config);
    const status = await cri.status(id);
    expect(status).toMatchObject({ id, metadata: config.metadata });
    expect(status.image.image).not.toBe("");
    expect(status.image_ref).not.toBe("");
    expect(BigInt(status.created_at) > before && BigInt(status.created_at) < now() + 1_000_000_000n).toBe(true);
  });

  clause("labels and annotations are stored and returned unchanged", async () => {
    const labels = { "io.kubernetes.container.name": "x", empty: "", "a.example/b": "c" };
    const annotations = {
      "io.kubernetes.container.preStopHandler": '{"exec":{"command":["a b"]}}',
      text: "\u00fc\n\t \u{1F6A2}",
      empty: "",
      long: "x".repeat(100_000),
    };
    const id = await cri.create(await cri.sharedPod(), cri.containerConfig(forever, { labels, annotations }));
    expect(await cri.status(id)).toMatchObject({ labels, annotations });
    expect((await cri.status(id)).labels).toEqual(labels);
    expect((await cri.status(id)).annotations).toEqual(annotations);
    expect((await cri.containers({ id }))[0].annotations).toEqual(annotations);
  });

  clause("mounts has at least those that were asked for, with container_path and host_path", async () => {
    const host_path = join(cri.endpoint.scratch, "echoed");
    mkdirSync(host_path, { recursive: true });
    const mounts = [
      { container_path: "/rw", host_path },
      { container_path: "/ro", host_path, readonly: true },
    ];
    const id = await cri.create(await cri.sharedPod(), cri.containerConfig(forever, { mounts }));
    const { mounts: echoed } = await cri.status(id);
    for (const mount of mounts) {
      expect(echoed.find((one: Message) => one.container_path === mount.container_path)).toMatchObject(mount);
    }
  });

  clause("log_path is the sandbox's log directory and the container's log path, absolute", async () => {
    const pod = await cri.sharedPod();
    const config = cri.containerConfig(forever);
    const { log_path } = await cri.status(await cri.create(pod, config));
    expect(isAbsolute(log_path)).toBe(true);
    expect(log_path).toBe(join(pod.config.log_directory, config.log_path));
  });

  clause("image_id is what PullImage gave as image_ref", { since: "1.30" }, async () => {
    const id = await cri.create(await cri.sharedPod(), cri.containerConfig(forever));
    expect((await cri.status(id)).image_id).toBe(cri.endpoint.imageId);
  });

  clause("any unambiguous prefix of an id is accepted wherever an id is", async () => {
    const id = await cri.create(await cri.sharedPod(), cri.containerConfig(forever));
    const prefix = id.slice(0, 20);
    expect((await cri.status(prefix)).id).toBe(id);
    await cri.start(prefix);
    expect(await cri.exec(prefix, "echo hello")).toMatchObject({ out: "hello" });
    await cri.runtime("ContainerStats", { container_id: prefix });
    await cri.runtime("ReopenContainerLog", { container_id: prefix });
    await cri.stop(prefix);
    await cri.remove(prefix);
    await refused(cri.status(id), codes.missing);
  });

  clause("info is given only when verbose is asked for; its pid is the host's number of the process", async () => {
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(forever));
    expect((await cri.runtime("ContainerStatus", { container_id: id })).info).toEqual({});
    const { info } = await cri.runtime("ContainerStatus", { container_id: id, verbose: true });
    expect(JSON.parse(info.info).pid).toBeGreaterThan(1);
  });
});

describe("the command", () => {
  clause("command and args are given: both are used, the image's command is not", async () => {
    const pod = await cri.sharedPod();
    const id = await cri.run(pod, cri.containerConfig(["/bin/echo", "one"], { args: ["two", "three words here"] }));
    expect(await cri.outcome(id)).toMatchObject({ out: "one two three words here" });
  });

  clause("only args: the image's entrypoint with them", { madeImages: true }, async () => {
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig([], { args: ["given"], ...(await made("entrypoint")) }));
    expect(await cri.outcome(id)).toMatchObject({ out: "entry given" });
  });

  clause("neither: the image's entrypoint and command", { madeImages: true }, async () => {
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig([], await made("entrypoint")));
    expect(await cri.outcome(id)).toMatchObject({ out: "entry default" });
  });

  clause("only a command: the image's entrypoint and command are not used", { madeImages: true }, async () => {
    const config = cri.containerConfig(["/bin/echo", "own"], await made("entrypoint"));
    expect(await cri.outcome(await cri.run(await cri.sharedPod(), config))).toMatchObject({ out: "own" });
  });

  clause("nothing at all is an error", { madeImages: true }, async () => {
    await refused(cri.create(await cri.sharedPod(), cri.containerConfig([], await made("no-command"))), codes.any);
  });
});

describe("directory and environment", () => {
  clause("the working directory is the config's, else the image's, else /", { madeImages: true }, async () => {
    expect(await cri.says("pwd", { working_dir: "/tmp" })).toMatchObject({ out: "/tmp" });
    expect(await cri.says("pwd", await made("entrypoint"))).toMatchObject({ out: "/home" });
    expect(await cri.says("pwd", { working_dir: "/tmp", ...(await made("entrypoint")) })).toMatchObject({ out: "/tmp" });
    expect(await cri.says("pwd")).toMatchObject({ out: "/" });
  });

  clause("the image's environment is there and the config's wins over it", { madeImages: true }, async () => {
    const more = await made("entrypoint");
    expect(await cri.says("echo $COLOUR $SHAPE", more)).toMatchObject({ out: "blue round" });
    expect(await cri.says("echo $COLOUR $SHAPE", { ...more, envs: env({ COLOUR: "red" }) })).toMatchObject({ out: "red round" });
  });

  clause("there is a PATH even when nobody gave one", { madeImages: true }, async () => {
    expect((await cri.says("echo $PATH", await made("no-command"))).out).toMatch(/(^|:)\/bin(:|$)/);
  });

  clause("of a variable given twice the last value counts, and values keep every character", async () => {
    const envs = [...env({ TWICE: "first" }), ...env({ TWICE: "last", ODD: "a=b  c'\"\\ \u00fc" })];
    expect((await cri.says('echo "$TWICE|$ODD"', { envs })).out).toBe("last|a=b  c'\"\\ \u00fc");
  });

  clause("HOSTNAME is the pod's host name, TERM is xterm with a terminal only", async () => {
    expect((await cri.says("echo $HOSTNAME; hostname; env | grep -q ^TERM= || echo none")).out).toMatch(/^(.+)\n\1\nnone$/);
    expect((await cri.says("echo $TERM", { tty: true })).out.trim()).toBe("xterm");
  });
});

describe("stdin and terminal", () => {
  clause("without stdin the process reads an end of file", async () => {
    expect(await cri.says("cat; echo done")).toMatchObject({ out: "done", code: 0 });
  });

  clause("with stdin it stays open", async () => {
    const id = await cri.run(
      await cri.sharedPod(),
      cri.containerConfig(["/bin/sh", "-c", "echo ready; cat; echo done"], { stdin: true }),
    );
    await cri.logged(id, "ready");
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect((await cri.status(id)).state).toBe("CONTAINER_RUNNING");
  });

  clause("with tty the process has a terminal, and its log has one stream with line ends as they came", async () => {
    const id = await cri.run(
      await cri.sharedPod(),
      cri.containerConfig(["/bin/sh", "-c", "test -t 0 && test -t 1 && echo terminal; echo error >&2"], { tty: true }),
    );
    await cri.exited(id);
    const records = await cri.log(id);
    expect(records.map((record) => record.stream)).toEqual(["stdout", "stdout"]);
    expect(records.map((record) => record.content.toString().replace(/\r$/, ""))).toEqual(["terminal", "error"]);
  });
});
