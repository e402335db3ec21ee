/** Network configuration lists (CNI 1.1.0, section 1) as they lie in the configuration directory. */
import * as v from "valibot";
import { messageOf, RuntimeError } from "../lib/errors.ts";

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
export type JsonObject = { readonly [key: string]: Json };

export interface PluginConfig {
  /** Name of the binary. */
  readonly type: string;
  readonly capabilities: ReadonlySet<string>;
  /** The object as written. */
  readonly raw: JsonObject;
}

export interface NetworkList {
  readonly name: string;
  /** The highest of the list's versions that is known here. */
  readonly cniVersion: string;
  readonly disableCheck: boolean;
  readonly disableGc: boolean;
  readonly plugins: readonly PluginConfig[];
}

/** In ascending order. */
export const knownVersions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/** Whether `version` (a known one) is at least `floor`. */
export function atLeast(version: string, floor: string): boolean {
  return knownVersions.indexOf(version) >= knownVersions.indexOf(floor);
}

/** The type is looked up as a file in the binary directories, so it may not be a path (CVE-2021-20206). */
const pluginType = v.pipe(
  v.string(),
  v.regex(/^[^/\\\0]+$/, "plugin type is empty or contains a path separator"),
  v.check((type) => type !== "." && type !== "..", "plugin type is not a file name"),
);
const networkName = v.pipe(v.string(), v.regex(/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/, "network name is not valid"), v.maxLength(128));
const pluginSchema = v.looseObject({ type: pluginType, capabilities: v.nullish(v.record(v.string(), v.boolean())) });
const versions = {
  cniVersion: v.nullish(v.string()),
  cniVersions: v.nullish(v.array(v.string())),
};
const flag = v.union([v.boolean(), v.picklist(["true", "false"])]);
const isSet = (value: v.InferOutput<typeof flag> | null | undefined): boolean => value === true || value === "true";
const listSchema = v.looseObject({
  name: networkName,
  ...versions,
  disableCheck: v.nullish(flag),
  disableGC: v.nullish(flag),
  loadOnlyInlinedPlugins: v.nullish(v.boolean()),
  plugins: v.nullish(v.array(pluginSchema)),
});
const singleSchema = v.looseObject({ name: networkName, ...versions, ...pluginSchema.entries });

type RawPlugin = v.InferOutput<typeof pluginSchema>;

function toPlugin(raw: RawPlugin): PluginConfig {
  const declared = Object.entries(raw.capabilities ?? {}).filter(([, wanted]) => wanted);
  return { type: raw.type, capabilities: new Set(declared.map(([name]) => name)), raw: raw as unknown as JsonObject };
}

function chooseVersion(cniVersion: string | null | undefined, more: readonly string[] | null | undefined): string {
  const offered = [...(cniVersion ? [cniVersion] : []), ...(more ?? [])];
  // A configuration without a version is of the time before there was one.
  if (offered.length === 0) return "0.1.0";
  const chosen = knownVersions.findLast((version) => offered.includes(version));
  if (chosen === undefined) throw new RuntimeError("invalid_argument", `unknown CNI version ${offered.join(", ")}`);
  return chosen;
}

function parseWith<T>(what: string, schema: v.GenericSchema<unknown, T>, json: unknown): T {
  try {
    return v.parse(schema, json);
  } catch (error) {
    throw new RuntimeError("invalid_argument", `${what}: ${messageOf(error)}`, {}, error);
  }
}

/** A plugin object that lies in a file of its own beside the list. */
export function parsePlugin(what: string, json: unknown): PluginConfig {
  return toPlugin(parseWith(what, pluginSchema, json));
}

/** `extra`: reads the plugin objects that lie in the list's own directory, unless the list says that there are none. */
export async function parseNetworkList(
  what: string,
  json: unknown,
  extra: (networkName: string) => Promise<readonly PluginConfig[]> = async () => [],
): Promise<NetworkList> {
  const list = parseWith(what, listSchema, json);
  const inline = (list.plugins ?? []).map(toPlugin);
  const plugins = list.loadOnlyInlinedPlugins === true ? inline : [...inline, ...(await extra(list.name))];
  if (plugins.length === 0) throw new RuntimeError("invalid_argument", `${what}: the list has no plugins`);
  return {
    name: list.name,
    cniVersion: chooseVersion(list.cniVersion, list.cniVersions),
    disableCheck: isSet(list.disableCheck),
    disableGc: isSet(list.disableGC),
    plugins,
  };
}

/** A file with one plugin is a list of one. */
export function parseSinglePlugin(what: string, json: unknown): NetworkList {
  const single = parseWith(what, singleSchema, json);
  const { cniVersion, cniVersions } = single;
  return {
    name: single.name,
    cniVersion: chooseVersion(cniVersion, cniVersions),
    disableCheck: false,
    disableGc: false,
    plugins: [toPlugin(single)],
  };
}

/** The list as one JSON object, complete in itself: what the cache keeps for DEL. */
export function serialiseNetworkList(list: NetworkList): string {
  return JSON.stringify({
    cniVersion: list.cniVersion,
    name: list.name,
    disableCheck: list.disableCheck,
    disableGC: list.disableGc,
    loadOnlyInlinedPlugins: true,
    plugins: list.plugins.map((plugin) => plugin.raw),
  });
}
