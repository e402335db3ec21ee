/** Exec, Attach and PortForward: the calls, and the URLs that they give out, over SPDY as crictl and the kubelet use them. */
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { beforeAll, describe, expect } from "vitest";
import { RemoteCommandClient, SpdyClient } from "../helpers/spdy-client.ts";
import { clause } from "./clause.ts";
import { codes, forever, type PodHandle, refused, unknownId, useCri } from "./cri.ts";

const cri = useCri();
let pod: PodHandle;
let id: string;
beforeAll(async () => {
  pod = await cri.sharedPod();
  id = await cri.run(pod, cri.containerConfig(forever));
});

const outputs = { stdout: true, stderr: true };
const execUrl = async (script: string, more: object = outputs): Promise<string> =>
  (await cri.runtime("Exec", { container_id: id, cmd: ["/bin/sh", "-c", script], ...more })).url;
const command = async (script: string, more: Record<string, boolean> = outputs): Promise<RemoteCommandClient> => {
  const { tty, ...streams } = more;
  return await RemoteCommandClient.open(await execUrl(script, more), [
    ...Object.keys(streams),
    ...(tty === true ? ["resize"] : []),
  ]);
};

describe("Exec", () => {
  clause("the answer is a fully qualified URL, and nothing runs before its client comes", async () => {
    const url = new URL(await execUrl("touch /tmp/ran"));
    expect(url.protocol).toMatch(/^https?:$/);
    expect(url.hostname).not.toBe("");
    expect(url.pathname).toMatch(/^\/exec\/.+/);
    expect((await cri.exec(id, "test -e /tmp/ran")).code).toBe(1);
  });

  clause("stdout, stderr and the exit code come over the URL", async () => {
    const session = await command("echo out; echo err >&2; exit 5");
    expect(await session.ending()).toMatchObject({ status: "Failure", exitCode: 5 });
    expect([session.of("stdout").text(), session.of("stderr").text()]).toEqual(["out\n", "err\n"]);
    expect(await (await command("true")).ending()).toMatchObject({ status: "Success" });
  });

  clause("stdin is streamed, and its end reaches the command", async () => {
    const session = await command("cat; echo over", { stdin: true, stdout: true });
    session.of("stdin").end("input\n");
    expect(await session.ending()).toMatchObject({ exitCode: 0 });
    expect(session.of("stdout").text()).toBe("input\nover\n");
  });

  clause("with tty the command has a terminal whose size follows the client's", async () => {
    const session = await command("test -t 0 && trap 'stty size; exit 0' WINCH; echo up; while :; do sleep 0.05; done", {
      tty: true,
      stdin: true,
      stdout: true,
    });
    await expect.poll(() => session.of("stdout").text()).toContain("up");
    session.of("resize").write('{"Width":77,"Height":33}');
    expect(await session.ending()).toMatchObject({ exitCode: 0 });
    expect(session.of("stdout").text()).toContain("33 77");
  });

  clause("a URL is good for one client", async () => {
    const url = await execUrl("true");
    (await SpdyClient.connect(url)).destroy();
    await expect(SpdyClient.connect(url)).rejects.toMatchObject({ status: 404 });
  });

  clause("a command that cannot be executed is told to the client", async () => {
    const { url } = await cri.runtime("Exec", { container_id: id, cmd: ["/no/such/thing"], ...outputs });
    const session = await RemoteCommandClient.open(url, ["stdout", "stderr"]);
    expect((await session.ending()).status).toBe("Failure");
  });

  clause("one of stdin, stdout and stderr must be true", async () => {
    await refused(cri.runtime("Exec", { container_id: id, cmd: ["true"] }), codes.invalid);
  });

  clause("tty and stderr cannot both be true", async () => {
    await refused(cri.runtime("Exec", { container_id: id, cmd: ["true"], tty: true, ...outputs }), codes.invalid);
  });

  clause("a container that does not exist is NotFound; one that does not run has no exec", async () => {
    await refused(cri.runtime("Exec", { container_id: unknownId, cmd: ["true"], ...outputs }), codes.missing);
    const ended = await cri.run(pod, cri.containerConfig(["/bin/true"]));
    await cri.exited(ended);
    await refused(cri.runtime("Exec", { container_id: ended, cmd: ["true"], ...outputs }), codes.wrongState);
  });
});

describe("Attach", () => {
  clause("a client is joined to the container's own streams", async () => {
    const reader = await cri.run(
      pod,
      cri.containerConfig(["/bin/sh", "-c", "read x; echo got $x; echo err >&2"], { stdin: true }),
    );
    const { url } = await cri.runtime("Attach", { container_id: reader, stdin: true, ...outputs });
    const session = await RemoteCommandClient.open(url, ["stdin", "stdout", "stderr"]);
    session.of("stdin").write("this\n");
    await expect.poll(() => session.of("stdout").text()).toBe("got this\n");
    await expect.poll(() => session.of("stderr").text()).toBe("err\n");
    await session.client.closed();
    expect(await cri.exited(reader)).toMatchObject({ exit_code: 0 });
  });

  clause("with stdin_once the container's stdin ends with the first client's", async () => {
    const config = cri.containerConfig(["/bin/sh", "-c", "cat >/dev/null; exit 6"], { stdin: true, stdin_once: true });
    const reader = await cri.run(pod, config);
    const { url } = await cri.runtime("Attach", { container_id: reader, stdin: true, ...outputs });
    const session = await RemoteCommandClient.open(url, ["stdin", "stdout", "stderr"]);
    session.of("stdin").end("all\n");
    expect(await cri.exited(reader)).toMatchObject({ exit_code: 6 });
    session.client.destroy();
  });

  clause("one of stdin, stdout and stderr must be true, and not both tty and stderr", async () => {
    await refused(cri.runtime("Attach", { container_id: id }), codes.invalid);
    await refused(cri.runtime("Attach", { container_id: id, tty: true, ...outputs }), codes.invalid);
  });

  clause("a container that does not exist is NotFound; one that does not run has no streams", async () => {
    await refused(cri.runtime("Attach", { container_id: unknownId, ...outputs }), codes.missing);
    const ended = await cri.run(pod, cri.containerConfig(["/bin/true"]));
    await cri.exited(ended);
    await refused(cri.runtime("Attach", { container_id: ended, ...outputs }), codes.wrongState);
  });
});

describe("PortForward", () => {
  const forward = async (sandbox: string): Promise<SpdyClient> => {
    const { url } = await cri.runtime("PortForward", { pod_sandbox_id: sandbox, port: [] });
    return await SpdyClient.connect(url, { protocols: ["portforward.k8s.io"] });
  };
  const pairOf = async (client: SpdyClient, port: number, requestid: string) => {
    const error = await client.stream({ streamtype: "error", port: String(port), requestid });
    const data = await client.stream({ streamtype: "data", port: String(port), requestid });
    error.end();
    return { error, data };
  };

  clause("connections reach the sandbox's ports, several over one URL", async () => {
    const server = createServer((socket) => socket.pipe(socket)).listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const client = await forward(pod.id);
    const pairs = [await pairOf(client, port, "0"), await pairOf(client, port, "1")];
    for (const [i, { data }] of pairs.entries()) data.write(`connection ${i}`);
    for (const [i, { data }] of pairs.entries()) await expect.poll(() => data.text()).toBe(`connection ${i}`);
    client.destroy();
    server.close();
  });

  clause("a port on which nobody listens is told on the error stream", async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    server.close();
    await once(server, "close");
    const client = await forward(pod.id);
    const { error } = await pairOf(client, port, "0");
    expect(await error.ended()).toMatch(/refused/);
    client.destroy();
  });

  clause("a sandbox that does not exist is NotFound; one that is stopped has no ports", async () => {
    await refused(cri.runtime("PortForward", { pod_sandbox_id: unknownId, port: [80] }), codes.missing);
    const stopped = await cri.pod();
    await cri.runtime("StopPodSandbox", { pod_sandbox_id: stopped.id });
    await refused(cri.runtime("PortForward", { pod_sandbox_id: stopped.id, port: [80] }), codes.wrongState);
  });
});
