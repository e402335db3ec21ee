/** Makes a small root file system: programs of this machine with the libraries that they need, and the users of any Linux. */
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

const directories = ["bin", "dev", "etc", "proc", "sys", "tmp", "usr", "root", "var"];

/** `programs`: absolute paths; they get the same path in the root. */
export function makeRootfs(root: string, programs: readonly string[]): void {
  for (const name of directories) mkdirSync(join(root, name), { recursive: true });
  for (const program of programs) {
    copyInto(root, program);
    for (const library of librariesOf(program)) copyInto(root, library);
  }
  if (!programs.includes("/bin/sh")) symlinkSync("bash", join(root, "bin/sh"));
  writeFileSync(join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n");
  writeFileSync(join(root, "etc/group"), "root:x:0:\ndaemon:x:1:\n");
}

function copyInto(root: string, path: string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  copyFileSync(realpathSync(path), join(root, path));
}

/** A program without shared libraries has none: ldd says so by its exit code. */
function librariesOf(program: string): readonly string[] {
  try {
    const text = execFileSync("ldd", [program], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    return [...text.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)].map(([, path = ""]) => path);
  } catch {
    return [];
  }
}
