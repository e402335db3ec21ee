/** Debian's docker-registry on a loopback port with its own temporary storage, and a way to put images into it. */
import { execFileSync, spawn } from "node:child_process";
import { createHash, createSign, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort } from "./free-port.ts";
import type { BuiltImage } from "./oci-image.ts";

export interface RegistryOptions {
  /** "basic": htpasswd; "token": a bearer token service of its own. Both know `registryUser` only. */
  readonly auth?: "none" | "basic" | "token";
}

export interface Registry {
  /** "127.0.0.1:PORT", the first component of references. */
  readonly host: string;
  readonly pid: number;
  /** Requests that the token service got, as "METHOD path?query". */
  readonly tokenRequests: readonly string[];
  /** Value of the Authorization header that may push and pull `name`. */
  authorization(name: string): string | undefined;
  stop(): Promise<void>;
}

export const registryUser = { username: "caisson", password: "secret" } as const;
const htpasswd = "caisson:$2b$04$9.QDLjzALJv8lGTsVYy5hOsk2kQslqTwrgNvekUVvWO.JA0Uw8xji\n";
const basic = `Basic ${Buffer.from(`${registryUser.username}:${registryUser.password}`).toString("base64")}`;
const issuer = "caisson-test";

export async function startRegistry(options: RegistryOptions = {}): Promise<Registry> {
  const dir = mkdtempSync(join(tmpdir(), "caisson-registry-"));
  const tokens = options.auth === "token" ? await startTokenService(dir) : undefined;
  const port = await freePort();
  const host = `127.0.0.1:${port}`;
  writeFileSync(join(dir, "htpasswd"), htpasswd);
  const auth = {
    none: [],
    basic: ["auth:", "  htpasswd:", "    realm: test", `    path: ${dir}/htpasswd`],
    token: [
      ...["auth:", "  token:", `    realm: ${tokens?.url}`, `    service: ${issuer}`, `    issuer: ${issuer}`],
      `    rootcertbundle: ${dir}/cert.pem`,
    ],
  }[options.auth ?? "none"];
  const config = [
    ...["version: 0.1", "log:", "  level: error", "  accesslog:", "    disabled: true"],
    ...["storage:", "  filesystem:", `    rootdirectory: ${dir}/data`, "  delete:", "    enabled: true"],
    ...["http:", `  addr: ${host}`, ...auth, ""],
  ];
  writeFileSync(join(dir, "config.yml"), config.join("\n"));
  // It must not outlive a test run that is killed.
  const child = spawn("setpriv", ["--pdeathsig", "KILL", "/usr/bin/docker-registry", "serve", join(dir, "config.yml")], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) {
      const gone = once(child, "exit");
      child.kill("SIGKILL");
      await gone;
    }
    await tokens?.stop();
    rmSync(dir, { recursive: true, force: true });
  };
  for (let attempt = 0; ; attempt++) {
    if (child.exitCode !== null || attempt === 200) {
      await stop();
      throw new Error(`docker-registry did not start: ${errors}`);
    }
    const answer = await fetch(`http://${host}/v2/`).catch(() => undefined);
    if (answer !== undefined) break;
    await sleep(25);
  }
  return {
    host,
    pid: child.pid ?? 0,
    tokenRequests: tokens?.requests ?? [],
    authorization: (name) => {
      if (options.auth === "basic") return basic;
      return tokens === undefined
        ? undefined
        : `Bearer ${tokens.sign([{ type: "repository", name, actions: ["pull", "push"] }])}`;
    },
    stop,
  };
}

interface Access {
  readonly type: string;
  readonly name: string;
  readonly actions: readonly string[];
}

interface TokenService {
  readonly url: string;
  readonly requests: string[];
  sign(access: readonly Access[]): string;
  stop(): Promise<void>;
}

/** Answers GET with Basic credentials and POST with an OAuth2 form, as the token specification has them. */
async function startTokenService(dir: string): Promise<TokenService> {
  const subject = ["-subj", "/CN=caisson-test", "-days", "2"];
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", join(dir, "key.pem")];
  execFileSync("openssl", ["req", "-x509", ...key, "-out", join(dir, "cert.pem"), ...subject], { stdio: "ignore" });
  const privateKey = readFileSync(join(dir, "key.pem"), "utf8");
  const chain = readFileSync(join(dir, "cert.pem"), "utf8").replaceAll(/-----[A-Z ]+-----|\s/g, "");
  const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const sign = (access: readonly Access[]): string => {
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      iss: issuer,
      sub: "test",
      aud: issuer,
      exp: now + 300,
      nbf: now - 10,
      iat: now,
      jti: randomBytes(8).toString("hex"),
      access,
    };
    const body = `${encode({ typ: "JWT", alg: "ES256", x5c: [chain] })}.${encode(claims)}`;
    const signature = createSign("sha256")
      .update(body)
      .sign({ key: privateKey, dsaEncoding: "ieee-p1363" })
      .toString("base64url");
    return `${body}.${signature}`;
  };
  const requests: string[] = [];
  const server = createServer(async (req, res) => {
    requests.push(`${req.method} ${req.url}`);
    let body = "";
    for await (const chunk of req.setEncoding("utf8")) body += chunk;
    const url = new URL(req.url ?? "/", "http://localhost");
    const form = req.method === "POST" ? new URLSearchParams(body) : url.searchParams;
    const allowed =
      req.method === "POST"
        ? (form.get("username") === registryUser.username && form.get("password") === registryUser.password) ||
          form.get("refresh_token") === registryIdentityToken
        : req.headers.authorization === basic;
    res.setHeader("content-type", "application/json");
    if (!allowed) {
      res.writeHead(401).end(JSON.stringify({ errors: [{ code: "UNAUTHORIZED", message: "wrong credentials" }] }));
      return;
    }
    const access = form
      .getAll("scope")
      .flatMap((scope) => scope.split(" "))
      .map((scope): Access => {
        const [type = "", name = "", actions = ""] = scope.split(":");
        return { type, name, actions: actions.split(",") };
      });
    res.end(JSON.stringify({ access_token: sign(access), token: sign(access), expires_in: 300 }));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address() as AddressInfo;
  const stop = async (): Promise<void> => {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  };
  return { url: `http://127.0.0.1:${port}/token`, requests, sign, stop };
}

/** The identity (refresh) token that the token service accepts. */
export const registryIdentityToken = createHash("sha256").update("caisson-identity").digest("hex");

/** Uploads blobs and manifest; returns the full reference `host/name:tag`. */
export async function pushImage(registry: Registry, name: string, tag: string, image: BuiltImage): Promise<string> {
  for (const [digest, data] of image.blobs) await pushBlob(registry, name, digest, data);
  await pushManifest(registry, name, tag, image.manifest, image.manifestType);
  return `${registry.host}/${name}:${tag}`;
}

export async function pushBlob(registry: Registry, name: string, digest: string, data: Uint8Array): Promise<void> {
  const headers = authHeaders(registry, name);
  const begun = await fetch(`http://${registry.host}/v2/${name}/blobs/uploads/`, { method: "POST", headers });
  const location = new URL(begun.headers.get("location") ?? "", `http://${registry.host}`);
  location.searchParams.set("digest", digest);
  await begun.body?.cancel();
  const put = await fetch(location, {
    method: "PUT",
    headers: { ...headers, "content-type": "application/octet-stream" },
    body: Buffer.from(data),
  });
  if (put.status !== 201) throw new Error(`push of ${digest} failed: ${put.status} ${await put.text()}`);
}

/** `tag` may be a digest. Also for indexes. */
export async function pushManifest(registry: Registry, name: string, tag: string, body: Uint8Array, type: string): Promise<void> {
  const put = await fetch(`http://${registry.host}/v2/${name}/manifests/${tag}`, {
    method: "PUT",
    headers: { ...authHeaders(registry, name), "content-type": type },
    body: Buffer.from(body),
  });
  if (put.status !== 201) throw new Error(`push of ${name}:${tag} failed: ${put.status} ${await put.text()}`);
}

function authHeaders(registry: Registry, name: string): Record<string, string> {
  const authorization = registry.authorization(name);
  return authorization === undefined ? {} : { authorization };
}
