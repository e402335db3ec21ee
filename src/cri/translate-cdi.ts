/** Which CDI devices a container asks for (cri-semantics 5.10). */
import type { ContainerConfig } from "../gen/cri/v1/api.ts";

const annotationPrefix = "cdi.k8s.io/";

/**
 * Fully qualified names, each once: those of the kubelet's own field, then, where the administrator allows it, those of the container's
 * annotations. Annotations of images and pods never count: whoever writes them is not who hands out devices (CVE-2026-53492).
 */
export function cdiDeviceNames(
  config: Pick<ContainerConfig, "CDIDevices" | "annotations">,
  fromAnnotations: boolean,
): readonly string[] {
  const annotated = fromAnnotations
    ? Object.entries(config.annotations)
        .filter(([key]) => key.startsWith(annotationPrefix))
        .flatMap(([, value]) => value.split(","))
    : [];
  return [...new Set([...config.CDIDevices.map(({ name }) => name), ...annotated])];
}
