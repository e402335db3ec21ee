/** The log file: its format, and ReopenContainerLog. */
import { existsSync, readFileSync, renameSync, statSync } from "node:fs";
import { describe, expect } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { clause } from "./clause.ts";
import { codes, forever, refused, unknownId, useCri } from "./cri.ts";
import { bytesOf, readLog, textOf } from "./log-records.ts";

const cri = useCri();
const sh = (script: string): string[] => ["/bin/sh", "-c", script];
const ran = async (script: string, more: Message = {}): Promise<Message> =>
  await cri.exited(await cri.run(await cri.sharedPod(), cri.containerConfig(sh(script), more)));

describe("the log format", () => {
  clause("a line is an RFC 3339 time stamp with nanoseconds, the stream, the tag F and the content", async () => {
    const before = Date.now();
    const status = await ran("echo hello world; echo oops >&2");
    const [first, second] = readFileSync(status.log_path, "utf8")
      .trim()
      .split("\n")
      .sort((a) => (a.includes("stdout") ? -1 : 1));
    expect(first).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}(Z|[+-]\d\d:\d\d) stdout F hello world$/);
    expect(second).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}(Z|[+-]\d\d:\d\d) stderr F oops$/);
    for (const { time } of readLog(status.log_path)) {
      expect(Date.parse(time)).toBeGreaterThanOrEqual(before - 1000);
      expect(Date.parse(time)).toBeLessThanOrEqual(Date.now() + 1000);
    }
  });

  clause("empty lines are records with no content", async () => {
    const records = readLog((await ran("echo; echo x; echo")).log_path);
    expect(records.map((record) => `${record.tags} ${record.content}`)).toEqual(["F ", "F x", "F "]);
  });

  clause("a long line is split into pieces tagged P, the last one F, of 16 KiB at most (class-log-line)", async () => {
    const length = 50_000;
    const { log_path } = await ran(`head -c ${length} /dev/zero | tr '\\0' x; echo; echo next`);
    const records = readLog(log_path);
    const pieces = records.slice(0, -1);
    expect(pieces.length).toBeGreaterThanOrEqual(4);
    expect(pieces.map((piece) => piece.tags[0])).toEqual([...pieces.slice(1).map(() => "P"), "F"]);
    for (const piece of pieces) expect(piece.content.length).toBeLessThanOrEqual(16_384);
    expect(textOf(records, "stdout")).toBe(`${"x".repeat(length)}\nnext\n`);
  });

  clause("a line of exactly 16 KiB and one byte more lose nothing", async () => {
    const line = (n: number): string => `head -c ${n} /dev/zero | tr '\\0' y; echo; `;
    const { log_path } = await ran(`${line(16_383)}${line(16_384)}${line(16_385)}${line(32_768)}`);
    const text = textOf(readLog(log_path), "stdout");
    expect(text.split("\n").map((one) => one.length)).toEqual([16_383, 16_384, 16_385, 32_768, 0]);
  });

  clause("a rest without a line end at the end of the output is tagged P", async () => {
    const records = readLog((await ran("echo whole; printf rest")).log_path);
    expect(records.map((record) => `${record.tags} ${record.content}`)).toEqual(["F whole", "P rest"]);
  });

  clause("content is raw bytes", async () => {
    // All bytes but the line end, and no CR at its end, which one runtime drops.
    const script = 'i=0; while [ $i -lt 256 ]; do [ $i = 10 ] || printf "\\\\$(printf %o $i)"; i=$((i+1)); done; echo';
    const bytes = bytesOf(readLog((await ran(script)).log_path), "stdout");
    expect([...bytes]).toEqual([...Array.from({ length: 256 }, (_, i) => i).filter((i) => i !== 10), 10]);
  });

  clause("lines keep their order and none is lost, nor torn between the streams", async () => {
    const count = 5000;
    const script = `seq 1 ${count} & seq 1 ${count} >&2; wait`;
    const records = readLog((await ran(script)).log_path);
    const wanted = `${Array.from({ length: count }, (_, i) => i + 1).join("\n")}\n`;
    expect(textOf(records, "stdout")).toBe(wanted);
    expect(textOf(records, "stderr")).toBe(wanted);
  });

  clause("time stamps of a stream do not go backwards", async () => {
    const times = readLog((await ran("for i in 1 2 3 4 5; do echo $i; sleep 0.01; done")).log_path).map(({ time }) => time);
    expect(times.map((time) => Date.parse(time))).toEqual(times.map((time) => Date.parse(time)).toSorted((a, b) => a - b));
  });

  clause("a line is in the file while the container runs", async () => {
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(forever));
    await cri.logged(id, "ready");
    expect((await cri.status(id)).state).toBe("CONTAINER_RUNNING");
  });
});

describe("the log file", () => {
  clause("it and its directory are made at the start, mode 0640", async () => {
    const pod = await cri.sharedPod();
    const id = await cri.run(pod, cri.containerConfig(["/bin/true"], { log_path: "deep/er/0.log" }));
    const { log_path } = await cri.exited(id);
    expect(statSync(log_path).mode & 0o777).toBe(0o640);
  });

  clause("it is appended to: what a file of that name has stays", async () => {
    const pod = await cri.sharedPod();
    const config = cri.containerConfig(sh("echo first"), { log_path: "appended/0.log" });
    await cri.exited(await cri.run(pod, config));
    const again = { ...config, command: sh("echo second"), metadata: { ...config.metadata, attempt: 1 } };
    const { log_path } = await cri.exited(await cri.run(pod, again));
    expect(textOf(readLog(log_path), "stdout")).toBe("first\nsecond\n");
  });

  clause("without a log path the output goes nowhere and log_path is empty", async () => {
    const status = await ran("echo lost", { log_path: "" });
    expect(status).toMatchObject({ log_path: "", exit_code: 0 });
  });

  clause("without a log directory the output goes nowhere and log_path is empty", async () => {
    const pod = await cri.pod({ log_directory: "" });
    const status = await cri.exited(await cri.run(pod, cri.containerConfig(sh("echo lost"))));
    expect(status).toMatchObject({ log_path: "", exit_code: 0 });
  });
});

describe("ReopenContainerLog", () => {
  clause("the new file is there when the call returns, later output goes there, and no line is lost", async () => {
    const script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.002; done";
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(sh(script)));
    await cri.logged(id, "line 5\n");
    const { log_path } = await cri.status(id);
    renameSync(log_path, `${log_path}.rotated`);
    await cri.runtime("ReopenContainerLog", { container_id: id });
    expect(existsSync(log_path)).toBe(true);
    const before = statSync(`${log_path}.rotated`).size;
    await cri.until(async () => readLog(log_path).length >= 5, "lines in the new file");
    expect(statSync(`${log_path}.rotated`).size).toBe(before);
    await cri.stop(id);
    const text = textOf([...readLog(`${log_path}.rotated`), ...readLog(log_path)], "stdout");
    expect(text.trim().split("\n")).toEqual(
      text
        .trim()
        .split("\n")
        .map((_, i) => `line ${i + 1}`),
    );
    expect(statSync(log_path).mode & 0o777).toBe(0o640);
  });

  clause("without a rotation the file goes on as it is", async () => {
    const id = await cri.run(
      await cri.sharedPod(),
      cri.containerConfig(sh("echo ready; while ! test -e /tmp/go; do sleep 0.02; done; echo after")),
    );
    await cri.logged(id, "ready");
    await cri.runtime("ReopenContainerLog", { container_id: id });
    await cri.exec(id, "touch /tmp/go");
    expect((await cri.outcome(id)).out).toBe("ready\nafter");
  });

  clause("a container that does not run is an error and no file is made", async () => {
    const created = await cri.create(await cri.sharedPod(), cri.containerConfig(forever));
    await refused(cri.runtime("ReopenContainerLog", { container_id: created }), codes.wrongState);
    expect(existsSync((await cri.status(created)).log_path)).toBe(false);
    const { id, log_path } = await ran("echo over");
    renameSync(log_path, `${log_path}.rotated`);
    await refused(cri.runtime("ReopenContainerLog", { container_id: id }), codes.wrongState);
    expect(existsSync(log_path)).toBe(false);
  });

  clause("a container that does not exist is an error", async () => {
    await refused(cri.runtime("ReopenContainerLog", { container_id: unknownId }), [...codes.missing, ...codes.invalid]);
  });
});
