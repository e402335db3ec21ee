import { expect, it } from "vitest";
import { CriuSession } from "../../../../src/core/criu/criu-session.ts";
import { RequestType } from "../../../../src/gen/criu/rpc.ts";

it("a CRIU that has ended before it was asked is an error of the call, and of nothing else", async () => {
  using session = new CriuSession();
  session.given();
  await expect(session.call({ request: { type: RequestType.VERSION } })).rejects.toThrow(
    /CRIU (does not listen|ended without an answer)/,
  );
});
