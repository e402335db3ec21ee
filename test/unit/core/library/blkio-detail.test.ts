import { describe, expect, it } from "vitest";
import { readBlkioDetail } from "../../../../src/core/library/blkio-detail.ts";

/** A kernel with these files. */
const kernel = (files: Readonly<Record<string, string>>) => (_: string, file: string) =>
  (files[file] ?? "").split("\n").filter((line) => line !== "");
const at = (op: string, value: bigint, minor = 0) => ({ major: 8, minor, op, value });

describe("queues, times and merges of block devices", () => {
  it("are those of CFQ", () => {
    expect(
      readBlkioDetail(
        kernel({
          "blkio.io_queued_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n",
          "blkio.io_merged_recursive": "8:0 Read 4\n8:16 Read 5\nTotal 9\n",
          "blkio.io_service_time_recursive": "8:0 Write 18446744073709551615\n",
          "blkio.io_wait_time_recursive": "8:0 Sync 7\n",
          "blkio.time_recursive": "8:0 8\n8:16 9\n",
          "blkio.sectors_recursive": "8:0 10\n",
        }),
      ),
    ).toEqual({
      queued: [at("Read", 1n), at("Write", 2n), at("Total", 3n)],
      merged: [at("Read", 4n), at("Read", 5n, 16)],
      serviceTime: [at("Write", 18446744073709551615n)],
      waitTime: [at("Sync", 7n)],
      time: [at("", 8n), at("", 9n, 16)],
      sectors: [at("", 10n)],
    });
  });

  it("are those of BFQ before CFQ's", () => {
    const files = { "blkio.bfq.io_queued_recursive": "8:0 Read 1\n", "blkio.io_queued_recursive": "8:0 Read 2\n" };
    expect(readBlkioDetail(kernel(files))).toEqual({ queued: [at("Read", 1n)] });
  });

  it("are costs on v2, of those devices that have them", () => {
    const text = "8:0 rbytes=1 wbytes=2 cost.usage=3 cost.wait=4 cost.indebt=5 cost.indelay=6\n8:16 rbytes=1\n";
    expect(readBlkioDetail(kernel({ "io.stat": text }))).toEqual({
      costUsage: [at("", 3n)],
      costWait: [at("", 4n)],
      costIndebt: [at("", 5n)],
      costIndelay: [at("", 6n)],
    });
  });

  it("are absent where the kernel does not count them", () => {
    expect(readBlkioDetail(kernel({}))).toEqual({});
    expect(readBlkioDetail(kernel({ "blkio.io_queued_recursive": "Total 0\n", "io.stat": "8:0 rbytes=1\n" }))).toEqual({});
  });
});
