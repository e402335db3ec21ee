/** JSON of verbose info: protobuf messages as other runtimes print them, with snake_case names and without empty fields. */

/** Fields whose keys are the user's own. */
const maps = new Set(["labels", "annotations", "sysctls", "unified"]);

/** A protobuf message as plain data; empty fields are left out, bytes become text. */
export function messageJson(message: unknown): unknown {
  if (ArrayBuffer.isView(message)) {
    return Buffer.from(message.buffer, message.byteOffset, message.byteLength).toString("utf8");
  }
  if (Array.isArray(message)) return message.map(messageJson);
  if (typeof message !== "object" || message === null) return message;
  const entries = Object.entries(message).filter(([, value]) => !isEmpty(value));
  return Object.fromEntries(entries.map(([key, value]) => [snakeCase(key), maps.has(key) ? value : messageJson(value)]));
}

/** Numbers beyond 2^53 become text: JSON readers would round them. */
export function infoText(info: unknown): string {
  return JSON.stringify(info, (_key, value: unknown) => {
    if (typeof value !== "bigint") return value;
    return Number.isSafeInteger(Number(value)) ? Number(value) : value.toString();
  });
}

function isEmpty(value: unknown): boolean {
  if (value === undefined || value === "" || value === 0 || value === 0n || value === false) return true;
  if (Array.isArray(value) || ArrayBuffer.isView(value)) return (value as { length: number }).length === 0;
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

function snakeCase(name: string): string {
  if (name === "CDIDevices") return "CDI_devices";
  return name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
