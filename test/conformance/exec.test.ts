/** ExecSync. */
import { beforeAll, describe, expect } from "vitest";
import { failure, grpcStatus } from "../helpers/cri-client.ts";
import { clause } from "./clause.ts";
import { codes, forever, refused, useCri } from "./cri.ts";
import { sleeping, uniqueSeconds } from "./host-processes.ts";

const cri = useCri();
let id: string;
beforeAll(async () => {
  id = await cri.run(
    await cri.sharedPod(),
    cri.containerConfig(forever, {
      envs: [{ key: "COLOUR", value: Buffer.from("blue") }],
      working_dir: "/tmp",
      linux: {
        security_context: { run_as_user: { value: "1000" }, capabilities: { drop_capabilities: ["CHOWN"] }, no_new_privs: true },
      },
    }),
  );
});

describe("ExecSync", () => {
  clause("stdout, stderr and exit code are given apart; an exit code that is not 0 is a success reply", async () => {
    expect(await cri.exec(id, "echo out; echo err >&2; exit 3")).toEqual({ out: "out", err: "err", code: 3 });
    expect(await cri.exec(id, "kill -KILL $$")).toMatchObject({ code: 137 });
  });

  clause("the process has the container's environment, directory and user, and no terminal", async () => {
    expect((await cri.exec(id, "echo $COLOUR; pwd; id -u; test -t 0 || test -t 1 || echo none")).out).toBe(
      "blue\n/tmp\n1000\nnone",
    );
  });

  clause("the process has the container's capabilities, seccomp filter and no_new_privs", async () => {
    const lines = "grep -E '^(CapBnd|CapInh|CapAmb|NoNewPrivs|Seccomp):' /proc/";
    const { out } = await cri.exec(id, `${lines}self/status; echo; ${lines}1/status`);
    const [own, first] = out.split("\n\n");
    expect(own).toBe(first);
    expect(own).toMatch(/NoNewPrivs:\t1\nSeccomp:\t2/);
  });

  clause("the process is in the container's namespaces and cgroup", async () => {
    const list = "for n in cgroup ipc mnt net pid uts user; do readlink /proc/$p/ns/$n; done; cat /proc/$p/cgroup";
    // Links of process 1 need the same user and no loss of dumpability: both are the container's user's.
    const { out } = await cri.exec(id, `p=self; ${list}; echo; p=1; ${list}`);
    const [own, first] = out.split("\n\n");
    expect(own).toBe(first);
  });

  clause("the process has no stdin: it reads an end of file", async () => {
    expect(await cri.exec(id, "cat; echo done")).toEqual({ out: "done", err: "", code: 0 });
  });

  clause("output is kept byte by byte", async () => {
    const script = 'i=0; while [ $i -lt 256 ]; do printf "\\\\$(printf %o $i)"; i=$((i+1)); done';
    const { stdout } = await cri.execRaw(id, ["/bin/sh", "-c", script]);
    expect(Buffer.compare(stdout, Buffer.from(Array.from({ length: 256 }, (_, i) => i)))).toBe(0);
  });

  clause("arguments are handed over as they are", async () => {
    const odd = ["a b", "", "$HOME", "*", "'\"\\", "\u00fc"];
    const { stdout } = await cri.execRaw(id, ["/bin/sh", "-c", 'for a in "$@"; do echo "[$a]"; done', "sh", ...odd]);
    expect(stdout.toString()).toBe(odd.map((one) => `[${one}]\n`).join(""));
  });

  clause("twelve mebibytes of output come whole in one reply", async () => {
    const { stdout, exit_code } = await cri.execRaw(id, ["/bin/sh", "-c", "head -c 12582912 /dev/zero"], 30);
    expect([stdout.length, exit_code]).toEqual([12_582_912, 0]);
  });

  clause("a command that outlives its timeout is killed, and the reply says so", async () => {
    const began = Date.now();
    const seconds = uniqueSeconds();
    const call = cri.execRaw(id, ["/bin/sleep", `${seconds}`], 1);
    const answer = await call.catch((error: { code: number }) => error);
    expect(Date.now() - began).toBeGreaterThanOrEqual(900);
    expect(Date.now() - began).toBeLessThan(8000);
    // Either DeadlineExceeded, or exit code -1 with the words that another runtime uses.
    if ("exit_code" in answer) expect(answer).toMatchObject({ exit_code: -1, stderr: Buffer.from("command timed out") });
    else expect(grpcStatus[answer.code]).toBe("DEADLINE_EXCEEDED");
    await cri.until(async () => sleeping(seconds) === 0, "the command's end", 5000);
    expect((await cri.status(id)).state).toBe("CONTAINER_RUNNING");
  });

  clause("a timeout of 0 is none", async () => {
    expect(await cri.exec(id, "sleep 1.2; echo late", 0)).toMatchObject({ out: "late", code: 0 });
  });

  clause("a command that is not there is an error, or a failed command with a text", async () => {
    const answer = await cri.execRaw(id, ["/no/such/program"]).catch((error: { code: number; details: string }) => error);
    if ("exit_code" in answer) expect(answer.exit_code).not.toBe(0);
    else expect(answer.details).toContain("/no/such/program");
  });

  clause("no command is an error", async () => {
    await refused(cri.execRaw(id, []), codes.any);
  });

  clause("a container that has exited is an error", async () => {
    const over = await cri.run(await cri.sharedPod(), cri.containerConfig(["/bin/true"]));
    await cri.exited(over);
    await refused(cri.execRaw(over, ["/bin/true"]), [...codes.wrongState, ...codes.missing]);
  });

  clause("a container that has not been started is an error", { ours: true }, async () => {
    const parked = await cri.create(await cri.sharedPod(), cri.containerConfig(forever));
    await refused(cri.execRaw(parked, ["/bin/true"]), codes.wrongState);
  });

  clause("commands run at the same time do not disturb each other", async () => {
    const numbers = Array.from({ length: 12 }, (_, i) => i);
    const results = await Promise.all(numbers.map((i) => cri.exec(id, `echo ${i}; echo e${i} >&2; exit ${i}`)));
    expect(results).toEqual(numbers.map((i) => ({ out: `${i}`, err: `e${i}`, code: i })));
  });

  clause("a client that gives up does not hurt the container", async () => {
    const controller = new AbortController();
    const call = failure(
      cri.client.runtime("ExecSync", { container_id: id, cmd: ["/bin/sleep", "4323"] }, 20_000, controller.signal),
    );
    await new Promise((resolve) => setTimeout(resolve, 200));
    controller.abort();
    expect(grpcStatus[(await call).code]).toBe("CANCELLED");
    expect(await cri.exec(id, "echo still here")).toMatchObject({ out: "still here" });
  });
});
