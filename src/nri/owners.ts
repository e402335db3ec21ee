import { Field, type FieldOwners, type OwningPlugins } from "../gen/nri/v1alpha1/api.ts";
import { RuntimeError } from "../lib/errors.ts";

const fieldNames: ReadonlyMap<number, string> = new Map(Object.entries(Field).map(([name, number]) => [number, name]));

/** Which plugin wants which field of which container. Two that want one are a conflict: neither can know what the other needs. */
export class Owners {
  readonly #containers = new Map<string, Map<number, Map<string, string>>>();

  /** `key` is the entry of a field that has several, "" of one that has not. @throws RuntimeError failed_precondition on a conflict. */
  claim(container: string, field: Field, key: string, plugin: string): void {
    const entries = this.#entries(container, field);
    const owner = entries.get(key);
    if (owner !== undefined && owner !== plugin) {
      const what = `${fieldNames.get(field) ?? field}${key === "" ? "" : ` ${JSON.stringify(key)}`}`;
      throw new RuntimeError(
        "failed_precondition",
        `NRI plugins ${owner} and ${plugin} both set ${what} of container ${container}: let only one of them do it`,
        { id: container },
      );
    }
    entries.set(key, plugin);
  }

  /** A field to which every plugin may add. */
  share(container: string, field: Field, plugin: string): void {
    const entries = this.#entries(container, field);
    const before = entries.get("");
    if (before?.split(",").includes(plugin)) return;
    entries.set("", before === undefined ? plugin : `${before},${plugin}`);
  }

  /** A plugin that takes away what another one wants may set it anew. */
  clear(container: string, field: Field, key: string): void {
    this.#entries(container, field).delete(key);
  }

  /** Of this field, or of any entry of it. */
  of(container: string, field: Field): string | undefined {
    const owners = new Set(this.#containers.get(container)?.get(field)?.values());
    return owners.size === 0 ? undefined : [...owners].join(", ");
  }

  message(): OwningPlugins {
    const owners: Record<string, FieldOwners> = {};
    for (const [container, fields] of this.#containers) {
      const simple: Record<number, string> = {};
      const compound: FieldOwners["compound"] = {};
      for (const [field, entries] of fields) {
        const only = entries.get("");
        if (only !== undefined) simple[field] = only;
        else if (entries.size > 0) compound[field] = { owners: Object.fromEntries(entries) };
      }
      owners[container] = { simple, compound };
    }
    return { owners };
  }

  #entries(container: string, field: Field): Map<string, string> {
    const fields = this.#containers.get(container) ?? new Map<number, Map<string, string>>();
    this.#containers.set(container, fields);
    const entries = fields.get(field) ?? new Map<string, string>();
    fields.set(field, entries);
    return entries;
  }
}
