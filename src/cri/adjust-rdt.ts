/** Classes of Intel RDT that NRI plugins want: by their name alone, or with what they allow. */
import type { OciIntelRdt } from "../core/oci.ts";
import type { LinuxRdt } from "../gen/nri/v1alpha1/api.ts";
import { invalid, quoted } from "./translate-check.ts";

/** `rdtClass`: a class that is there; empty: none. What resctrl makes of it is seen when the container is made. */
export function adjustRdt(
  before: OciIntelRdt | undefined,
  wanted: LinuxRdt | undefined,
  rdtClass: string | undefined,
): OciIntelRdt | undefined {
  const named = rdtClass === undefined ? before : rdtClass === "" ? undefined : { closID: rdtClass };
  if (wanted === undefined) return named;
  const closID = wanted.closId?.value;
  if (rdtClass !== undefined && closID !== undefined && closID !== rdtClass)
    throw invalid(`NRI plugins want both rdt_class ${quoted(rdtClass)} and rdt.clos_id ${quoted(closID)} for one container`);
  const base = wanted.remove && rdtClass === undefined ? undefined : named;
  const schemata = wanted.schemata?.value;
  const enableMonitoring = wanted.enableMonitoring?.value;
  if (closID === undefined && schemata === undefined && enableMonitoring === undefined) return base;
  return {
    ...base,
    ...(closID === undefined ? {} : { closID }),
    ...(schemata === undefined ? {} : { schemata }),
    ...(enableMonitoring === undefined ? {} : { enableMonitoring }),
  };
}
