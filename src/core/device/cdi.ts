/** Devices of the Container Device Interface: from fully qualified names to what they change in a container's specification. */
import { RuntimeError } from "../../lib/errors.ts";
import type { OciSpec } from "../oci.ts";
import { applyCdiEdits, type IdentifyNode, type NamedEdits } from "./cdi-edits.ts";
import { type CdiFile, CdiFiles } from "./cdi-files.ts";
import { isQualifiedName } from "./cdi-spec.ts";
import { identifyHostNode } from "./host-node.ts";

export interface CdiOptions {
  /** Directories of specification files; later ones have precedence. */
  readonly directories: readonly string[];
  /** Hears once of each file that cannot be used. */
  readonly onProblem?: (sentence: string) => void;
  /** How nodes of this machine are looked at. */
  readonly identify?: IdentifyNode;
}

const mostDevices = 1024;
const mostProblems = 5;

export class CdiDevices {
  readonly #files: CdiFiles;
  readonly #identify: IdentifyNode;

  constructor(options: CdiOptions) {
    this.#files = new CdiFiles(options.directories, options.onProblem);
    this.#identify = options.identify ?? identifyHostNode;
  }

  /**
   * The specification with all that these devices need. Files are looked at anew each time; without names nothing is read.
   * @throws RuntimeError invalid_argument for what is no name; failed_precondition with the names that are not on this node;
   *   unimplemented for devices that need what no plan can give.
   */
  async inject(oci: OciSpec, names: readonly string[]): Promise<OciSpec> {
    const wanted = [...new Set(names)];
    if (wanted.length === 0) return oci;
    if (wanted.length > mostDevices) {
      throw new RuntimeError("invalid_argument", `${wanted.length} CDI devices are more than ${mostDevices}`);
    }
    const malformed = wanted.filter((name) => !isQualifiedName(name));
    if (malformed.length > 0) {
      throw new RuntimeError("invalid_argument", `not CDI devices of the form VENDOR/CLASS=NAME: ${listed(malformed)}`);
    }
    return await applyCdiEdits(oci, resolve(await this.#files.read(), wanted), this.#identify);
  }
}

/** The edits of a file come once, before those of its first device. */
function resolve(files: readonly CdiFile[], wanted: readonly string[]): readonly NamedEdits[] {
  const used = new Set<CdiFile>();
  const all: NamedEdits[] = [];
  const missing: string[] = [];
  for (const device of wanted) {
    const [file, rival] = candidates(files, device);
    const edits = editsOf(file, device);
    if (file === undefined || edits === undefined) {
      missing.push(quoted(device));
    } else if (rival !== undefined) {
      missing.push(`${quoted(device)} (both ${file.path} and ${rival.path} have it)`);
    } else {
      if (!used.has(file) && file.spec?.containerEdits) all.push({ device, edits: file.spec.containerEdits });
      used.add(file);
      all.push({ device, edits });
    }
  }
  if (missing.length === 0) return all;
  const message = `unresolvable CDI devices: ${missing.join(", ")}${problemsOf(files)}`;
  throw new RuntimeError("failed_precondition", message, { devices: missing.length });
}

/** Files of the highest priority that have the device; more than one is a conflict. */
function candidates(files: readonly CdiFile[], device: string): readonly CdiFile[] {
  const having = files.filter((file) => editsOf(file, device) !== undefined);
  const highest = Math.max(...having.map(({ priority }) => priority));
  return having.filter(({ priority }) => priority === highest);
}

function editsOf(file: CdiFile | undefined, device: string) {
  const spec = file?.spec;
  if (spec === undefined || !device.startsWith(`${spec.kind}=`)) return undefined;
  const name = device.slice(spec.kind.length + 1);
  return spec.devices.find((one) => one.name === name)?.containerEdits;
}

/** A file that cannot be read is the likely reason. */
function problemsOf(files: readonly CdiFile[]): string {
  const broken = files.filter(({ spec }) => spec === undefined);
  if (broken.length === 0) return "";
  const shown = broken.slice(0, mostProblems).map(({ path, problem }) => `${path}: ${problem}`);
  const more = broken.length > mostProblems ? ` and ${broken.length - mostProblems} more` : "";
  return `; specifications that cannot be used: ${shown.join("; ")}${more}`;
}

const quoted = (name: string): string => JSON.stringify(name.length > 330 ? `${name.slice(0, 330)}...` : name);
const listed = (names: readonly string[]): string => names.slice(0, 16).map(quoted).join(", ");
