/** Fuzzes what caisson-unpack reads before it touches the filesystem, under ASan and UBSan, for FUZZ_SECONDS (10). */
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { expect, it } from "vitest";
import { tar, tarEntry } from "../helpers/tar.ts";

const top = join(import.meta.dirname, "../..");
const out = join(top, "build/native-tests/unpack");
const seconds = Number(process.env.FUZZ_SECONDS ?? 10);

it("finds no input that breaks the decoders", { timeout: (seconds + 120) * 1000 }, () => {
  const seeds = join(out, "seeds");
  rmSync(seeds, { recursive: true, force: true });
  mkdirSync(seeds, { recursive: true });
  mkdirSync(join(out, "corpus"), { recursive: true });
  const rich = tar([
    { name: "d/", type: "5" },
    { name: "d/f", content: "text", xattrs: { "user.a": "b" }, mtime: 1.5 },
    { name: "l", type: "2", link: "d" },
    { name: "s", content: "x", pax: { "GNU.sparse.size": "99", "GNU.sparse.map": "5,1", "LIBARCHIVE.xattr.user.%61": "YQ==" } },
    {
      name: "t",
      content: `${"1\n5\n1\n".padEnd(512, "\0")}x`,
      pax: { "GNU.sparse.major": "1", "GNU.sparse.realsize": "99", "GNU.sparse.name": "u" },
    },
  ]);
  const gnu = Buffer.concat([tarEntry({ name: "././@LongLink", type: "L", content: "long/name\0" }), rich]);
  for (const [name, data] of Object.entries({ rich, gnu, gzip: gzipSync(rich), zstd: zstdCompressSync(rich) }))
    writeFileSync(join(seeds, name), data);
  const flags =
    "-std=gnu17 -D_GNU_SOURCE= -DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all";
  const binary = join(out, "fuzz");
  execFileSync("clang", [...flags.split(" "), join(top, "test/native/unpack-fuzz.c"), "-o", binary, "-lz", "-lzstd", "-lcrypto"]);
  const options = [
    `-max_total_time=${seconds}`,
    "-max_len=8192",
    "-timeout=10",
    "-rss_limit_mb=1024",
    `-artifact_prefix=${out}/`,
  ];
  const result = execFileSync(binary, [...options, join(out, "corpus"), seeds], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
  });
  expect(result).not.toContain("SUMMARY");
});
