import type { Image as ImageMessage } from "../gen/cri/v1/api.ts";
import type { Image } from "../image/image-service.ts";

const largestUid = 2 ** 31 - 1;

/** An image as CRI shows it. */
export function imageView(image: Image): ImageMessage {
  return {
    id: image.id,
    repoTags: [...image.repoTags],
    repoDigests: [...image.repoDigests],
    // The client refuses a size of 0.
    size: image.sizeBytes > 0n ? image.sizeBytes : 1n,
    ...userOf(image.config.user),
    spec: undefined,
    pinned: image.pinned,
  };
}

/**
 * The image's user for the kubelet's runAsNonRoot check: a number in range is a uid, anything else a name, which that check refuses.
 * A number out of range must not become uid 0 by wrapping (CVE-2024-40635).
 */
function userOf(user: string): Pick<ImageMessage, "uid" | "username"> {
  const name = user.split(":")[0] ?? "";
  if (/^\d+$/.test(name) && Number(name) <= largestUid) return { uid: { value: BigInt(name) }, username: "" };
  return { uid: undefined, username: name };
}
