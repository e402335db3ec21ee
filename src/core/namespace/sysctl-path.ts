/** Dots and slashes may both separate; whichever comes first does, and the other is a character of a name (sysctl.d(5)). */
export function sysctlPath(key: string): string {
  const separator = /[./]/.exec(key)?.[0];
  return separator === "." ? key.replace(/[./]/g, (found) => (found === "." ? "/" : ".")) : key;
}
