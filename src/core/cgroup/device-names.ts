import type { ReadFiles } from "./cgroup-stats.ts";

/** Names of block devices by number, each asked once: a number keeps its device as long as that is in use. */
export class DeviceNames {
  readonly #read: ReadFiles;
  readonly #names = new Map<string, Promise<string>>();

  constructor(read: ReadFiles) {
    this.#read = read;
  }

  /** "/dev/sda", or the numbers themselves for what has no device (a btrfs, a network filesystem). */
  of(major: number, minor: number): Promise<string> {
    const key = `${major}:${minor}`;
    const name = this.#names.get(key) ?? this.#ask(key);
    this.#names.set(key, name);
    return name;
  }

  async #ask(key: string): Promise<string> {
    const [text] = await this.#read([`/sys/dev/block/${key}/uevent`]);
    const [, name] = /^DEVNAME=(.+)$/m.exec(text ?? "") ?? [];
    return name === undefined ? key : `/dev/${name}`;
  }
}
