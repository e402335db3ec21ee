/**
 * Makes one program of test files, one of the daemon, and one of the processes that tests start, for the virtual machine: its emulated
 * processor takes a minute to load Vitest and to strip types, and seconds for each start of a daemon that consists of hundreds of files.
 */
import { cpSync, globSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { type OutputOptions, type Plugin, type RolldownOptions, rolldown } from "rolldown";

/** A test file, and a regular expression for the names of those of its cases that run, where that is not all. */
export interface Chosen {
  readonly file: string;
  readonly cases?: string;
}

const top = join(import.meta.dirname, "../../..");
const entry = "\0entry";

/** The checkout lies at the same path in the machine: what a module finds beside itself is found there too. */
const inPlace: Plugin = {
  name: "in-place",
  transform: (code, id) =>
    code.includes("import.meta.") && !id.includes("node_modules")
      ? code
          .replaceAll("import.meta.dirname", JSON.stringify(dirname(id)))
          .replaceAll("import.meta.filename", JSON.stringify(id))
          .replaceAll("import.meta.url", JSON.stringify(pathToFileURL(id).href))
      : undefined,
};

/** Tells guest.ts which files there are, and how each is loaded. */
const entryOf = (files: readonly Chosen[]): Plugin => ({
  name: "entry",
  resolveId: (id) => (id === entry ? id : undefined),
  load: (id) => {
    if (id !== entry) return undefined;
    const rows = files.map(
      ({ file, cases = "" }) =>
        `{ file: ${JSON.stringify(file)}, cases: ${JSON.stringify(cases)}, load: () => import(${JSON.stringify(resolve(top, file))}) }`,
    );
    return `import { runFiles } from ${JSON.stringify(join(import.meta.dirname, "guest.ts"))};\nawait runFiles([${rows.join(",\n")}]);\n`;
  },
});

async function write(dir: string, extension: "js" | "mjs", options: RolldownOptions, output: OutputOptions = {}): Promise<void> {
  // Unresolvable and eval'ed parts are optional ones of dependencies, which nothing here reaches.
  const onLog: RolldownOptions["onLog"] = (level, log, say) => void (level !== "warn" && say(level, log));
  const bundle = await rolldown({ cwd: top, platform: "node", onLog, ...options });
  await bundle.write({
    dir,
    format: "esm",
    entryFileNames: `[name].${extension}`,
    chunkFileNames: `chunk-[hash].${extension}`,
    ...output,
  });
}

/** `DIR/run.mjs` runs the files. */
export async function bundleTests(dir: string, files: readonly Chosen[]): Promise<void> {
  await write(dir, "mjs", { input: { run: entry }, plugins: [entryOf(files), inPlace], external: [/^vite($|\/)/] });
}

/** `DIR/library-actor.mjs`, in one piece: an ordinary user gets a copy of it. */
export async function bundleActor(dir: string): Promise<void> {
  const input = { "library-actor": join(top, "test/fixtures/library-actor.ts") };
  await write(dir, "mjs", { input, plugins: [inPlace] }, { codeSplitting: false });
}

/** What takes the place of dist/: the daemon and each worker thread under their own names, and the command as it is. */
export async function bundleProduct(dir: string): Promise<void> {
  const names = ["main", ...globSync("**/*-worker.js", { cwd: join(top, "dist") }).map((path) => path.slice(0, -3))];
  const input = Object.fromEntries(names.map((name) => [name, join(top, "dist", `${name}.js`)]));
  await write(dir, "js", { input, plugins: [inPlace] });
  cpSync(join(top, "dist/command"), join(dir, "command"), { recursive: true });
}
