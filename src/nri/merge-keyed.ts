/** Lists and maps of which plugins change single entries. A key that begins with "-" takes the entry away. */

const marker = "-";

export const isRemoval = (key: string): boolean => key.startsWith(marker);
export const bareKey = (key: string): string => (isRemoval(key) ? key.slice(marker.length) : key);

export interface Claims {
  claim(key: string): void;
  clear(key: string): void;
}

/** What all plugins up to this one want: one entry for each key that is set, a marker for each that is taken away. */
export function mergeEntries<T>(
  before: readonly T[],
  wanted: readonly T[],
  keyOf: (entry: T) => string,
  { claim, clear }: Claims,
): T[] {
  const removed = new Set(wanted.map(keyOf).filter(isRemoval).map(bareKey));
  for (const key of removed) clear(key);
  // Within one answer the last word counts.
  const set = new Map(wanted.filter((entry) => !isRemoval(keyOf(entry))).map((entry) => [keyOf(entry), entry]));
  for (const key of set.keys()) claim(key);
  const kept = before.filter((entry) => {
    const key = keyOf(entry);
    return !removed.has(bareKey(key)) && !set.has(key);
  });
  return [...kept, ...wanted.filter((entry) => isRemoval(keyOf(entry))), ...set.values()];
}

/** The list with these changes: entries that are set or taken away go, what is set comes last. */
export function applyEntries<T, C>(
  list: readonly T[],
  keyOf: (entry: T) => string,
  changes: readonly C[],
  keyOfChange: (change: C) => string,
  convert: (change: C) => T,
): T[] {
  const touched = new Set(changes.map((change) => bareKey(keyOfChange(change))));
  return [
    ...list.filter((entry) => !touched.has(keyOf(entry))),
    ...changes.filter((change) => !isRemoval(keyOfChange(change))).map(convert),
  ];
}

export function mergeMap<T>(
  before: Readonly<Record<string, T>>,
  wanted: Readonly<Record<string, T>>,
  claims: Claims,
): Record<string, T> {
  return Object.fromEntries(mergeEntries(Object.entries(before), Object.entries(wanted), ([key]) => key, claims));
}

export function applyMap<T>(map: Readonly<Record<string, T>>, changes: Readonly<Record<string, T>>): Record<string, T> {
  const key = ([name]: [string, T]): string => name;
  return Object.fromEntries(applyEntries(Object.entries(map), key, Object.entries(changes), key, (entry) => entry));
}
