const oci = "application/vnd.oci.image";
const docker = "application/vnd.docker";

export const indexTypes: ReadonlySet<string> = new Set([`${oci}.index.v1+json`, `${docker}.distribution.manifest.list.v2+json`]);
export const manifestTypes: ReadonlySet<string> = new Set([`${oci}.manifest.v1+json`, `${docker}.distribution.manifest.v2+json`]);
export const configTypes: ReadonlySet<string> = new Set([`${oci}.config.v1+json`, `${docker}.container.image.v1+json`]);

/** A registry converts, or denies, what is not in the list. */
export const acceptedTypes = [...indexTypes, ...manifestTypes];

const layerForm =
  /^application\/vnd\.(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+(?:gzip|zstd))?|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:\.(?:gzip|zstd))?)$/;

/** The compression is detected by magic: media types have been wrong about it. */
export function isLayerType(mediaType: string): boolean {
  return layerForm.test(mediaType);
}

/** Signed and unsigned schema 1: gone from all current clients. */
export function isSchemaOne(mediaType: string): boolean {
  return mediaType.startsWith(`${docker}.distribution.manifest.v1+`);
}
