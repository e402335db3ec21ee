/**
 * Makes dist/command of dist/cli: the command as few files that `require` each other, for a start of 25 ms instead of 130. Node resolves
 * and links each of some 150 modules by itself, and an `import` of a built-in one evaluates all its lazy parts (streams, promises) to
 * have their names.
 */
import { rmSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { type Plugin, rolldown } from "rolldown";

const top = join(import.meta.dirname, "..");
const out = join(top, "dist/command");

/** What a module finds beside itself it has to find from there as well. */
const inPlace: Plugin = {
  name: "in-place",
  transform: (code, id) => {
    if (!code.includes("import.meta.") || id.includes("node_modules")) return undefined;
    const place = (path: string) => `(__dirname + ${JSON.stringify(`/${relative(out, path)}`)})`;
    return code
      .replaceAll("import.meta.dirname", place(dirname(id)))
      .replaceAll("import.meta.filename", place(id))
      .replaceAll("import.meta.url", `require("node:url").pathToFileURL${place(id)}.href`);
  },
};

/** Built-in modules are loaded when they are first used: node:crypto alone takes as long as all of ours. */
const lazyBuiltins: Plugin = {
  name: "lazy-builtins",
  renderChunk: (code) => {
    const modules = new Map<string, string>();
    const declared = code.replace(/^let (node_\w+) = require\("(node:[\w/]+)"\);$/gm, (line, name: string, module: string) => {
      // Imported as a whole, it is made into something else at once.
      if (code.includes(`__toESM(${name}`)) return line;
      modules.set(name, module);
      return `let ${name};`;
    });
    return [...modules].reduce(
      (text, [name, module]) =>
        text.replace(new RegExp(`(?<![\\w.$"'\`])${name}(?=\\.)`, "g"), `(${name} ??= require("${module}"))`),
      declared,
    );
  },
};

// Files of before may have other names.
rmSync(out, { recursive: true, force: true });
const bundle = await rolldown({
  cwd: top,
  input: { caisson: join(top, "dist/cli/main.js") },
  platform: "node",
  plugins: [inPlace, lazyBuiltins],
  // Optional parts of dependencies that are not there, and eval in one that nothing here reaches.
  onLog: (level, log, say) => void (level !== "warn" && say(level, log)),
});
await bundle.write({ dir: out, format: "cjs", entryFileNames: "[name].cjs", chunkFileNames: "[name]-[hash].cjs" });
