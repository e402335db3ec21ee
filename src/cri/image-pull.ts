import type { AuthConfig, PullImageRequest, PullImageResponse } from "../gen/cri/v1/api.ts";
import type { PullAuth } from "../image/image-service.ts";
import { step } from "../lib/step.ts";
import type { Context, CriApp } from "./app-types.ts";
import { checkedHandler, checkedImage } from "./request-checks.ts";

/** Ends with its caller: a pull that nobody waits for is not worth its traffic, and nothing half-made becomes visible. */
export async function pullImage(app: CriApp, ctx: Context, request: PullImageRequest): Promise<PullImageResponse> {
  const reference = checkedImage(request.image);
  checkedHandler(app.config, request.image?.runtimeHandler ?? "");
  const id = await step("image.pull", () => app.images.pull(reference, authOf(request.auth), ctx.signal));
  return { imageRef: id };
}

function authOf(auth: AuthConfig | undefined): PullAuth | undefined {
  if (auth === undefined) return undefined;
  const { username, password, serverAddress, identityToken, registryToken } = auth;
  const given = { username, password, auth: auth.auth, serverAddress, identityToken, registryToken };
  const { serverAddress: _, ...secrets } = given;
  return Object.values(secrets).every((value) => value === "") ? undefined : given;
}
