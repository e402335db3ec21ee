import type { IndexEntry } from "./documents.ts";

/** In Go's names. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant: string;
}

const goNames: Readonly<Record<string, Platform>> = {
  x64: { os: "linux", architecture: "amd64", variant: "" },
  arm64: { os: "linux", architecture: "arm64", variant: "v8" },
  arm: { os: "linux", architecture: "arm", variant: "v7" },
  ia32: { os: "linux", architecture: "386", variant: "" },
};

export function hostPlatform(): Platform {
  return goNames[process.arch] ?? { os: "linux", architecture: process.arch, variant: "" };
}

const aliases: Readonly<Record<string, string>> = {
  x86_64: "amd64",
  "x86-64": "amd64",
  aarch64: "arm64",
  i386: "386",
  i686: "386",
};

/** 0 is the best; undefined does not run here. Attestations ("unknown/unknown") never match. */
function rank(wanted: Platform, offered: Platform): number | undefined {
  const architecture = aliases[offered.architecture.toLowerCase()] ?? offered.architecture.toLowerCase();
  if (offered.os.toLowerCase() !== wanted.os || architecture !== wanted.architecture) return undefined;
  const level = (variant: string, fallback: number): number => Number(/^v?(\d+)/.exec(variant)?.[1] ?? fallback);
  switch (architecture) {
    case "arm": {
      const difference = level(wanted.variant, 7) - level(offered.variant, 7);
      return difference >= 0 ? difference : undefined;
    }
    case "arm64":
      return offered.variant === "" || level(offered.variant, 8) === 8 ? 0 : undefined;
    case "amd64":
      // Higher levels (v2, v3, v4) need instructions that the machine may lack: only the base is taken.
      return offered.variant === "" || level(offered.variant, 1) === 1 ? 0 : undefined;
    default:
      return 0;
  }
}

export function runsOn(wanted: Platform, offered: Platform): boolean {
  return rank(wanted, offered) !== undefined;
}

/** Entries that say they fit, best first; then those without a platform, whose config has to tell. */
export function candidates(wanted: Platform, entries: readonly IndexEntry[]): readonly IndexEntry[] {
  const ranked = entries.flatMap((entry) => {
    const at = entry.platform === undefined ? undefined : rank(wanted, entry.platform);
    return at === undefined ? [] : [{ entry, at }];
  });
  const fitting = ranked.toSorted((a, b) => a.at - b.at).map(({ entry }) => entry);
  return [...fitting, ...entries.filter((entry) => entry.platform === undefined)];
}
