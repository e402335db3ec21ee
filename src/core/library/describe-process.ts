/** From what a caller says of a process to what a plan has to know of it. */
import type { OciProcess } from "../oci.ts";
import type { Rootfs } from "../runtime.ts";
import type { Config } from "./config.ts";
import type { Machine } from "./machine.ts";
import type { Process } from "./process.ts";
import { refuseUnmappedUser } from "./rootless.ts";
import { translateProcess } from "./translate.ts";
import { resolveUser } from "./user.ts";

/** Who it is, looked up in `root`, and what the container gives it. */
export async function describeProcess(machine: Machine, config: Config, process: Process, root: Rootfs): Promise<OciProcess> {
  const user = await resolveUser(process.spec.user, root);
  const { caller } = machine;
  if (caller !== undefined) refuseUnmappedUser(config, user, caller);
  const described = translateProcess(config, process.spec, user);
  return { oomScoreAdj: machine.ownOomScoreAdj, ...described };
}
