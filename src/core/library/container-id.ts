import { invalidId } from "./errors.ts";

/** Ids are names of directories: letters, digits, "_", "+", "-" and ".", and neither "." nor "..". */
export function checkId(id: string): string {
  if (!/^[\w+.-]+$/.test(id) || id === "." || id === "..") throw invalidId();
  return id;
}
