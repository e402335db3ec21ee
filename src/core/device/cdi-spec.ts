/**
 * One CDI specification file (Container Device Interface 1.1.0): what it may say, and what the version that it declares allows it to
 * say. Strict: a field that is not known, or newer than the declared version, may carry a restriction that would be lost.
 */
import * as v from "valibot";
import { RuntimeError } from "../../lib/errors.ts";

const known = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"] as const;
type Version = (typeof known)[number];

const text = v.pipe(v.string(), v.regex(/^[^\0]*$/, "contains a NUL character"));
const filled = v.pipe(text, v.nonEmpty("is empty"));
const absolute = v.pipe(text, v.regex(/^\//, "is not an absolute path"));
const variable = v.pipe(text, v.regex(/^[^=]+=/, "is not of the form NAME=VALUE"));
const number = (max: number) => v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(max));
const id = number(2 ** 32 - 2);
const listOf = <const S extends v.GenericSchema>(schema: S) => v.nullish(v.array(schema));

const vendorPattern = /^(?=.{1,253}$)[a-z](?:[\w.-]*[a-z0-9])?$/i;
const classPattern = /^(?=.{1,63}$)[a-z](?:[\w.-]*[a-z0-9])?$/i;
const devicePattern = /^[a-z0-9](?:[\w.:-]*[a-z0-9])?$/i;
/** A name as Kubernetes has them for annotations: an optional domain, and at most 63 characters. */
const annotationKey = /^(?:(?=[^/]{1,253}\/)[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?\/)?(?=[^/]{1,63}$)[a-z0-9](?:[\w.-]*[a-z0-9])?$/i;
const mostAnnotationBytes = 256 << 10;

const annotations = v.nullish(
  v.pipe(
    v.record(v.pipe(v.string(), v.regex(annotationKey, "is not a name for an annotation")), text),
    v.check((all) => Buffer.byteLength(JSON.stringify(all)) <= mostAnnotationBytes, "are larger than 256 KiB"),
  ),
);

const deviceNode = v.strictObject({
  path: absolute,
  hostPath: v.nullish(v.union([absolute, v.literal("")])),
  type: v.nullish(v.picklist(["", "b", "c", "u", "p"])),
  major: v.nullish(number(2 ** 12 - 1)),
  minor: v.nullish(number(2 ** 20 - 1)),
  fileMode: v.nullish(number(2 ** 32 - 1)),
  permissions: v.nullish(v.pipe(v.string(), v.regex(/^(?:none|[rwm]*)$/, 'is neither a subset of "rwm" nor "none"'))),
  uid: v.nullish(id),
  gid: v.nullish(id),
});

const mount = v.strictObject({
  hostPath: filled,
  containerPath: absolute,
  type: v.nullish(text),
  options: listOf(text),
});

const hook = v.strictObject({
  hookName: v.picklist(["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]),
  path: absolute,
  args: listOf(text),
  env: listOf(variable),
  timeout: v.nullish(number(2 ** 31 - 1)),
});

const intelRdt = v.strictObject({
  closID: v.nullish(v.pipe(text, v.regex(/^(?!\.{1,2}$)(?:[^/\n]{0,4095}|\/)$/, "is not the name of a class of service"))),
  l3CacheSchema: v.nullish(text),
  memBwSchema: v.nullish(text),
  enableCMT: v.nullish(v.boolean()),
  enableMBM: v.nullish(v.boolean()),
  schemata: listOf(text),
  enableMonitoring: v.nullish(v.boolean()),
});

const containerEdits = v.strictObject({
  env: listOf(variable),
  deviceNodes: listOf(deviceNode),
  netDevices: listOf(v.strictObject({ hostInterfaceName: filled, name: filled })),
  mounts: listOf(mount),
  hooks: listOf(hook),
  additionalGids: listOf(id),
  intelRdt: v.nullish(intelRdt),
});

const schema = v.strictObject({
  cdiVersion: v.pipe(
    v.string(),
    v.transform((version) => version.replace(/^v/, "")),
    v.picklist(known, `is none of ${known.join(", ")}`),
  ),
  kind: v.pipe(v.string(), v.check(isKind, "is not of the form VENDOR/CLASS")),
  annotations,
  devices: v.pipe(
    v.array(
      v.strictObject({
        // An unquoted 0 of a YAML file is a number.
        name: v.pipe(
          v.union([v.string(), v.number()]),
          v.transform(String),
          v.regex(devicePattern, "is not a name for a device"),
        ),
        annotations,
        containerEdits: v.pipe(
          containerEdits,
          v.check((edits) => Object.values(edits).some(isSaid), "edit nothing"),
        ),
      }),
    ),
    v.nonEmpty("names no device"),
  ),
  containerEdits: v.nullish(containerEdits),
});

export type CdiSpec = v.InferOutput<typeof schema>;
export type CdiEdits = v.InferOutput<typeof containerEdits>;
export type CdiDeviceNode = v.InferOutput<typeof deviceNode>;
export type CdiMount = v.InferOutput<typeof mount>;

/** null and an empty list say as little as a field that is not there. */
function isSaid(value: unknown): boolean {
  return value !== undefined && value !== null && !(Array.isArray(value) && value.length === 0);
}

function isKind(kind: string): boolean {
  const slash = kind.indexOf("/");
  return slash > 0 && vendorPattern.test(kind.slice(0, slash)) && classPattern.test(kind.slice(slash + 1));
}

/** Whether this is a fully qualified name: VENDOR/CLASS=DEVICE. */
export function isQualifiedName(name: string): boolean {
  const equals = name.indexOf("=");
  return equals > 0 && isKind(name.slice(0, equals)) && devicePattern.test(name.slice(equals + 1));
}

/**
 * Checks what a file holds.
 * @throws RuntimeError invalid_argument with one sentence for each mistake.
 */
export function checkCdiSpec(document: unknown): CdiSpec {
  if (Array.isArray(document)) throw new RuntimeError("invalid_argument", "the document is a list, not an object");
  const result = v.safeParse(schema, document);
  if (!result.success) throw new RuntimeError("invalid_argument", result.issues.map(sentence).join("; "));
  const spec = result.output;
  const early = newerThan(spec);
  if (early.length > 0) throw new RuntimeError("invalid_argument", `cdiVersion is ${spec.cdiVersion}, but ${early.join(", ")}`);
  const names = new Set<string>();
  for (const { name } of spec.devices) {
    if (names.has(name)) throw new RuntimeError("invalid_argument", `device ${name} is there twice`);
    names.add(name);
  }
  return spec;
}

function sentence(issue: v.BaseIssue<unknown>): string {
  const path = v.getDotPath(issue) ?? "the document";
  if (issue.expected === "never") return `unknown field ${path}`;
  if (issue.received === "undefined") return `${path} is missing`;
  if (issue.kind === "schema" && issue.type !== "picklist") return `${path} must be ${issue.expected ?? "something else"}`;
  return `${path}: ${issue.message}`;
}

/** What the file uses that its declared version does not have yet, or no longer has. */
function newerThan(spec: CdiSpec): readonly string[] {
  const found = new Set<string>();
  const declared = known.indexOf(spec.cdiVersion);
  const needs = (version: Version, what: string, value: unknown): void => {
    if (isSaid(value) && value !== "" && declared < known.indexOf(version)) found.add(`${what} needs ${version}`);
  };
  needs("0.6.0", "annotations", Object.keys(spec.annotations ?? {}));
  if (spec.kind.slice(spec.kind.indexOf("/")).includes(".")) needs("0.6.0", "a dot in the class", true);
  for (const device of spec.devices) {
    needs("0.6.0", "annotations", Object.keys(device.annotations ?? {}));
    if (/^\d/.test(device.name)) needs("0.5.0", `the name ${device.name}`, true);
  }
  for (const edits of [spec.containerEdits, ...spec.devices.map((device) => device.containerEdits)]) {
    for (const node of edits?.deviceNodes ?? []) needs("0.5.0", "hostPath of a device node", node.hostPath);
    for (const { type } of edits?.mounts ?? []) needs("0.4.0", "type of a mount", type);
    needs("0.7.0", "additionalGids", edits?.additionalGids);
    needs("0.7.0", "intelRdt", edits?.intelRdt);
    needs("1.1.0", "netDevices", edits?.netDevices);
    const rdt = edits?.intelRdt;
    needs("1.1.0", "intelRdt.schemata", rdt?.schemata);
    needs("1.1.0", "intelRdt.enableMonitoring", rdt?.enableMonitoring);
    if (spec.cdiVersion !== "1.1.0") continue;
    for (const gone of ["enableCMT", "enableMBM"] as const) {
      if (isSaid(rdt?.[gone])) found.add(`intelRdt.${gone} ended with 1.0.0`);
    }
  }
  return [...found];
}
