/**
 * Programs as a user who is not root and has a range of ids in /etc/subuid. It exists in a mount namespace of the program only, where the
 * checkout is at a path that everybody may go to: the machine's own accounts are left alone.
 */
import { spawn, spawnSync } from "node:child_process";
import { chownSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { actorScript } from "./library-actor.ts";
import type { LibraryPlace } from "./library-place.ts";

const checkout = join(import.meta.dirname, "../..");

export class OrdinaryUser {
  readonly uid = 43210;
  /** First of its subordinate ids. */
  readonly firstSubordinate = 910_000;
  readonly place: LibraryPlace;
  readonly stateDir: string;
  readonly #files: string;

  constructor(place: LibraryPlace) {
    this.place = place;
    this.#files = join(place.top, "etc");
    this.stateDir = join(place.top, "user");
    mkdirSync(this.stateDir, { mode: 0o700 });
    mkdirSync(join(this.#files, "app"), { recursive: true });
    writeFileSync(join(this.#files, "passwd"), `root:x:0:0::/root:/bin/sh\ncaisson-test:x:${this.uid}:${this.uid}::/:/bin/sh\n`);
    for (const name of ["subuid", "subgid"])
      writeFileSync(join(this.#files, name), `${this.uid}:${this.firstSubordinate}:65536\n`);
    chownSync(this.stateDir, this.uid, this.uid);
    spawnSync("chmod", ["755", place.top]);
    spawnSync("chown", ["-R", `${this.uid}:${this.uid}`, place.rootfs]);
  }

  /** The file of the checkout, where the user finds it. */
  path(file: string): string {
    return join(this.#files, "app", file);
  }

  /** Runs it to its end. `cgroup`: a v2 directory that it is put into before. */
  async run(
    argv: readonly string[],
    { env = {}, cgroup }: { env?: NodeJS.ProcessEnv; cgroup?: string } = {},
  ): Promise<{ code: number; out: string; err: string }> {
    const binds = ["passwd", "subuid", "subgid"].map(
      (name) => `touch /etc/${name}; mount --bind ${this.#files}/${name} /etc/${name}`,
    );
    const enter = cgroup === undefined ? [] : [`echo $$ > ${cgroup}/cgroup.procs`];
    const script = [
      "set -e",
      ...binds,
      `mount --bind ${checkout} ${this.#files}/app`,
      ...enter,
      `exec setpriv --reuid ${this.uid} --regid ${this.uid} --clear-groups -- "$@"`,
    ].join("\n");
    const child = spawn("unshare", ["--mount", "--propagation", "slave", "sh", "-c", script, "sh", ...argv], {
      stdio: ["ignore", "pipe", "pipe"],
      cwd: "/",
      env: { ...process.env, XDG_RUNTIME_DIR: this.stateDir, ...env },
    });
    let out = "";
    let err = "";
    child.stdout.on("data", (chunk: Buffer) => {
      out += chunk.toString();
    });
    child.stderr.on("data", (chunk: Buffer) => {
      err += chunk.toString();
    });
    const code = await new Promise<number>((resolve) => child.once("close", (status) => resolve(status ?? -1)));
    return { code, out, err };
  }

  /** A task of test/fixtures/library-actor.ts: what it says, line by line. `by`: a command that starts what follows it. */
  async act(
    task: object,
    { by = [], ...options }: { by?: readonly string[]; cgroup?: string; env?: NodeJS.ProcessEnv } = {},
  ): Promise<readonly Record<string, unknown>[]> {
    const program = [this.#node(), "--disable-warning=ExperimentalWarning", this.#actor(), JSON.stringify(task)];
    const { out, err } = await this.run([...by, ...program], options);
    if (err !== "") throw new Error(err);
    return out
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  /** A bundle knows where the checkout is: the user's copy knows it where the user finds it. */
  #actor(): string {
    if (!actorScript.endsWith(".mjs")) return this.path("test/fixtures/library-actor.ts");
    const copy = join(this.#files, "library-actor.mjs");
    writeFileSync(copy, readFileSync(actorScript, "utf8").replaceAll(`${checkout}/`, `${this.path("")}/`));
    return copy;
  }

  /** Node, at a path that the user may go to. */
  #node(): string {
    const { execPath } = process;
    return execPath.startsWith(`${checkout}/`) ? this.path(execPath.slice(checkout.length + 1)) : execPath;
  }
}
