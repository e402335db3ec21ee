import { normalize } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";

/** A path below a hierarchy's root, cleaned as if rooted there: it cannot climb. "/" itself is refused. */
export function cleanCgroupPath(path: string): string {
  if (!path.startsWith("/") || path.includes("\0")) {
    throw new RuntimeError("invalid_argument", `cgroup path ${JSON.stringify(path)} is not absolute`);
  }
  const clean = normalize(path).replace(/\/+$/, "");
  if (clean === "") throw new RuntimeError("invalid_argument", "a cgroup path may not be the root of the hierarchy");
  return clean;
}

/** The path and all its parents below the root, topmost first. */
export function ancestry(clean: string): readonly string[] {
  const parts = clean.split("/").slice(1);
  return parts.map((_, at) => `/${parts.slice(0, at + 1).join("/")}`);
}
