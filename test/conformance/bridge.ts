/** A pod network of the suite's own: runs beside each other on one machine do not share it. */
import { execFileSync } from "node:child_process";
import { randomBytes, randomInt } from "node:crypto";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bridgeConflist } from "../helpers/cri-node.ts";

export class Bridge implements Disposable {
  readonly #name = `caissonc${randomBytes(2).toString("hex")}`;
  readonly #subnet = `10.211.${randomInt(100, 250)}.0/24`;

  configureIn(cniConf: string): void {
    writeFileSync(join(cniConf, "10-conformance.conflist"), bridgeConflist(this.#name, this.#subnet));
  }

  /** The plugin leaves its bridge, as it does on every node. */
  [Symbol.dispose](): void {
    if (existsSync(`/sys/class/net/${this.#name}`)) execFileSync("ip", ["link", "delete", this.#name], { stdio: "ignore" });
    rmSync(`/tmp/${this.#name}-ipam`, { recursive: true, force: true });
  }
}
