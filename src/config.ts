/**
 * The daemon's configuration: embedded defaults, then the TOML file, then flags. Validated once, frozen, handed down by app.ts.
 * A key that is not known is an error: a misspelt one would otherwise be silently without effect.
 */
import { readFileSync } from "node:fs";
import { parse, TomlError } from "smol-toml";
import * as v from "valibot";
import { errnoName, messageOf, RuntimeError } from "./lib/errors.ts";

const absolutePath = v.pipe(
  v.string(),
  v.regex(/^\/[^\0]*$/, "must be an absolute path"),
  v.transform((path) => (path.length > 1 ? path.replace(/\/+$/, "") : path)),
);
const count = (min: number, max: number) => v.pipe(v.number(), v.integer(), v.minValue(min), v.maxValue(max));
const key = <const S extends v.GenericSchema>(schema: S, about: string, fallback: v.InferInput<S>) =>
  v.optional(v.pipe(schema, v.description(about)), fallback);

export const logLevels = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];

/** Kinds of change that an administrator can forbid NRI plugins. */
const nriRejectable = [
  "annotations",
  "mounts",
  "hooks",
  "devices",
  "env",
  "args",
  "rlimits",
  "resources",
  "priorities",
  "namespaces",
  "sysctls",
  "net-devices",
  "seccomp-default",
  "seccomp-unconfined",
  "seccomp-localhost",
] as const;

/** Sections and keys as the file has them. The descriptions and defaults are also what `caissond --print-config` shows. */
const sections = {
  cni: {
    conf_dirs: key(v.array(absolutePath), "Directories of network lists, first wins; watched for changes.", ["/etc/cni/net.d"]),
    bin_dirs: key(v.array(absolutePath), "Directories of plugins, searched in order.", ["/opt/cni/bin", "/usr/lib/cni"]),
    cache_dir: key(
      v.union([absolutePath, v.literal("")]),
      "What was attached and with which configuration, for DEL; empty: cni below root.",
      "",
    ),
    plugin_timeout_s: key(count(1, 3600), "After it a plugin's whole process group is killed.", 60),
    ip_preference: key(
      v.picklist(["cni", "ipv4", "ipv6"]),
      "Which address of a pod is the first one; cni: as the plugins order them.",
      "cni",
    ),
  },
  registry: {
    hosts_dir: key(absolutePath, "REGISTRY/hosts.toml below it, in containerd's layout.", "/etc/caisson/hosts.d"),
    local_layouts: key(
      v.record(v.pipe(v.string(), v.minLength(1)), absolutePath),
      "Repository names that are served from an OCI layout directory of this node.",
      {},
    ),
  },
  image: {
    pinned: key(v.array(v.string()), "Names that garbage collection must leave alone; a trailing * matches any rest.", []),
    max_concurrent_downloads: key(count(1, 64), "Layers fetched at once, for each image.", 3),
    pull_progress_timeout_s: key(count(0, 86_400), "A pull that gets no byte for so long is ended; 0: never.", 300),
    max_layer_bytes: key(count(1, 2 ** 50), "Largest unpacked layer.", 64 * 2 ** 30),
    max_layer_entries: key(count(1, 1e9), "Most files in one layer.", 5_000_000),
  },
  cdi: {
    spec_dirs: key(v.array(absolutePath), "Directories of CDI specifications; later ones have precedence.", [
      "/etc/cdi",
      "/var/run/cdi",
    ]),
    from_annotations: key(
      v.boolean(),
      "Whether containers also get the devices that their cdi.k8s.io annotations name, which whoever makes a pod can write.",
      false,
    ),
  },
  nri: {
    enabled: key(v.boolean(), "Whether plugins of the Node Resource Interface have a say in pods and containers.", true),
    socket: key(absolutePath, "Where plugins connect; only root can.", "/var/run/nri/nri.sock"),
    external: key(v.boolean(), "Whether plugins may connect, beside those that are installed.", true),
    plugin_dir: key(absolutePath, "Programs called INDEX-NAME that are started with the daemon.", "/opt/nri/plugins"),
    config_dir: key(absolutePath, "Their configuration: INDEX-NAME.conf or NAME.conf.", "/etc/nri/conf.d"),
    registration_timeout_ms: key(
      count(1, 600_000),
      "A plugin that has connected and not registered for so long is closed.",
      5000,
    ),
    request_timeout_ms: key(count(1, 600_000), "A plugin that does not answer for so long is closed.", 2000),
    required: key(
      v.array(v.pipe(v.string(), v.regex(/^[A-Za-z0-9_.+-]+$/, "must be a plugin's name, with or without its index"))),
      "Plugins without which no pod may run.",
      [],
    ),
    tolerate_missing_annotation: key(v.string(), "Pods with this annotation set to true run without them; empty: none do.", ""),
    rejected: key(v.array(v.picklist(nriRejectable)), `What plugins may not change: ${nriRejectable.join(", ")}.`, []),
  },
  runtime: {
    cgroup_driver: key(
      v.picklist(["auto", "systemd", "cgroupfs"]),
      "Who makes cgroups; must be the kubelet's. auto: what the node has had, on a new one systemd where it is process 1.",
      "auto",
    ),
    netns_dir: key(absolutePath, "Where network namespaces are pinned; shared with the host.", "/run/netns"),
    max_log_line: key(count(256, 65_536), "Bytes of a log record's content before it is split.", 16_384),
    absent_mount_sources: key(
      v.picklist(["create", "refuse"]),
      "What happens when the host path of a mount is missing: make a directory (0755) or fail.",
      "create",
    ),
    default_capabilities: key(
      v.array(v.pipe(v.string(), v.regex(/^[A-Z_]+$/, "must be a name as NET_RAW"))),
      "What a container has that asks for nothing.",
      [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
      ],
    ),
    default_sysctls: key(
      v.record(v.string(), v.string()),
      "Set in every pod with a network of its own, unless the pod says otherwise.",
      { "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647" },
    ),
    privileged_host_devices: key(
      v.boolean(),
      "Whether a privileged container gets every device of the node, or only those that it asks for.",
      true,
    ),
    shm_bytes: key(count(4096, 2 ** 40), "Size of a pod's /dev/shm.", 64 << 20),
    kill_patience_s: key(
      count(1, 3600),
      "How long a stop waits for the end of processes after SIGKILL before it fails and says who is in the way; it goes on by itself.",
      30,
    ),
    exec_output_bytes: key(
      count(4096, 15 << 20),
      "Most bytes kept of an ExecSync's two streams together; the reply must stay under 16 MiB.",
      15 << 20,
    ),
    exec_drain_ms: key(
      count(0, 600_000),
      "How long ExecSync reads on after the command's end while others hold its pipes.",
      2000,
    ),
    native_dir: key(
      v.union([absolutePath, v.literal("")]),
      "Directory of caisson-shim and caisson-unpack; empty: the one that was built with the daemon.",
      "",
    ),
  },
  streaming: {
    address: key(
      v.pipe(v.string(), v.minLength(1)),
      "Where Exec, Attach and PortForward are served; others can reach it.",
      "127.0.0.1",
    ),
    port: key(count(0, 65_535), "0: any that is free.", 0),
    tls_cert: key(v.union([absolutePath, v.literal("")]), "PEM file of the certificate; empty: plain HTTP.", ""),
    tls_key: key(v.union([absolutePath, v.literal("")]), "PEM file of its key.", ""),
    client_ca: key(v.union([absolutePath, v.literal("")]), "Clients must show a certificate of this authority; empty: none.", ""),
    idle_timeout_s: key(count(1, 2_000_000), "A connection on which nothing moves for so long is ended.", 4 * 3600),
    token_ttl_s: key(count(1, 3600), "How long a URL is good for.", 60),
    max_pending_tokens: key(count(1, 1_000_000), "Most URLs that wait for their clients.", 1000),
  },
  checkpoint: {
    criu: key(v.union([absolutePath, v.literal("")]), "CRIU's program; empty: looked up in PATH, when it is needed.", ""),
    restore: key(
      v.boolean(),
      "Whether CreateContainer takes the path of a checkpoint archive, or an image that holds one; who may make pods then restores any on this node.",
      false,
    ),
  },
  store: {
    ballast_bytes: key(count(0, 1 << 30), "Kept free for removals on a full disk.", 1 << 20),
    events_per_object: key(count(16, 100_000), "Oldest events beyond it are forgotten.", 256),
    events_total: key(count(1000, 10_000_000), "Oldest events of all objects beyond it are forgotten.", 50_000),
  },
} satisfies Record<string, v.ObjectEntries>;

const general = {
  root: key(absolutePath, "What survives a reboot: database, layers, writable layers.", "/var/lib/caisson"),
  state: key(absolutePath, "What does not: sockets, shims' records, pinned namespaces.", "/run/caisson"),
  listen: key(absolutePath, "The CRI socket.", "/run/caisson/caisson.sock"),
  log_level: key(v.picklist(logLevels), "Least severity that is logged.", "info"),
} satisfies v.ObjectEntries;

/** What a runtime handler may have otherwise than [runtime]. */
const { default_capabilities, default_sysctls, shm_bytes, absent_mount_sources, privileged_host_devices } = sections.runtime;
const profile = v.strictObject({
  default_capabilities: v.exactOptional(default_capabilities.wrapped),
  default_sysctls: v.exactOptional(default_sysctls.wrapped),
  shm_bytes: v.exactOptional(shm_bytes.wrapped),
  absent_mount_sources: v.exactOptional(absent_mount_sources.wrapped),
  privileged_host_devices: v.exactOptional(privileged_host_devices.wrapped),
});
/** As a RuntimeClass can name it; the default handler has [runtime] itself. */
const handlerName = v.pipe(
  v.string(),
  v.regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, "must be a name of lower-case letters, digits and dashes"),
  v.notValue("caisson", "is the default handler, which [runtime] describes"),
);

const section = <const E extends v.ObjectEntries>(entries: E) => v.optional(v.strictObject(entries), {} as never);
const schema = v.strictObject({
  ...general,
  cni: section(sections.cni),
  registry: section(sections.registry),
  image: section(sections.image),
  cdi: section(sections.cdi),
  nri: v.pipe(
    section(sections.nri),
    v.check(({ enabled = true, required = [] }) => enabled || required.length === 0, "required plugins need enabled"),
  ),
  runtime: section(sections.runtime),
  runtimes: v.optional(v.record(handlerName, profile), {}),
  streaming: v.pipe(
    section(sections.streaming),
    v.check(
      ({ tls_cert = "", tls_key = "", client_ca = "" }) =>
        (tls_cert === "") === (tls_key === "") && (client_ca === "" || tls_cert !== ""),
      "tls_cert and tls_key belong together, and client_ca needs both",
    ),
  ),
  checkpoint: section(sections.checkpoint),
  store: section(sections.store),
});

type CamelCase<S extends string> = S extends `${infer A}_${infer B}` ? `${A}${Capitalize<CamelCase<B>>}` : S;
type Camel<T> = { readonly [K in keyof T as K extends string ? CamelCase<K> : K]: Deep<T[K]> };
type Deep<T> = T extends readonly (infer E)[]
  ? readonly E[]
  : T extends Record<string, string>
    ? Readonly<T>
    : T extends object
      ? Camel<T>
      : T;

/** The keys of the file in camel case: `config.cni.confDirs`. */
export type Config = Camel<v.InferOutput<typeof schema>>;

/** Flags of caissond that take the place of keys. */
export type Overrides = Partial<Pick<v.InferOutput<typeof schema>, "root" | "state" | "listen" | "log_level">>;

const camel = (name: string): string => name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
const isTable = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const frozenKeys = (table: Readonly<Record<string, unknown>>): object =>
  Object.freeze(
    Object.fromEntries(
      Object.entries(table).map(([name, value]) => [camel(name), typeof value === "object" ? Object.freeze(value) : value]),
    ),
  );

const frozenProfiles = (profiles: Readonly<Record<string, object>>): object =>
  Object.freeze(Object.fromEntries(Object.entries(profiles).map(([name, values]) => [name, frozenKeys({ ...values })])));

/** Only the names of our own keys are changed: those inside a value (registries, sysctls) are the administrator's. */
function freeze(parsed: v.InferOutput<typeof schema>): Config {
  const entries = Object.entries(parsed).map(([name, value]): [string, unknown] => {
    if (name === "runtimes") return [name, frozenProfiles(parsed.runtimes)];
    if (!(name in sections) || !isTable(value)) return [camel(name), value];
    return [name, frozenKeys(value)];
  });
  return Object.freeze(Object.fromEntries(entries)) as Config;
}

function sentence(issue: v.BaseIssue<unknown>, where: string): string {
  const path = v.getDotPath(issue) ?? "";
  if (issue.expected === "never") return `${where}: unknown key ${path}`;
  return `${where}: ${path}: ${issue.message}`;
}

/**
 * Validates what a file says, with flags on top. `where` names the file in messages.
 * @throws RuntimeError invalid_argument with one sentence for each mistake.
 */
export function parseConfig(text: string, where: string, overrides: Overrides = {}): Config {
  let table: Record<string, unknown>;
  try {
    table = parse(text);
  } catch (error) {
    const at = error instanceof TomlError ? ` line ${error.line}, column ${error.column}` : "";
    throw new RuntimeError("invalid_argument", `${where}${at}: not TOML: ${messageOf(error).split("\n")[0]}`, {}, error);
  }
  const result = v.safeParse(schema, { ...table, ...overrides });
  if (!result.success) {
    const sentences = result.issues.map((issue) => {
      const path = v.getDotPath(issue) ?? "";
      return path in overrides ? `--${path.replace("_", "-")}: ${issue.message}` : sentence(issue, where);
    });
    throw new RuntimeError("invalid_argument", sentences.join("; "));
  }
  const { root, cni } = result.output;
  return freeze({ ...result.output, cni: { ...cni, cache_dir: cni.cache_dir || `${root}/cni` } });
}

export const defaultConfigPath = "/etc/caisson/config.toml";

/**
 * Reads the configuration. Without `path` the default file is read if it is there; a named file must be there.
 * @throws RuntimeError not_found, invalid_argument.
 */
export function loadConfig(path: string | undefined, overrides: Overrides = {}): Config {
  const file = path ?? defaultConfigPath;
  let text = "";
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    if (errnoName(error) !== "ENOENT") throw new RuntimeError("invalid_argument", `${file}: ${messageOf(error)}`, {}, error);
    if (path !== undefined) throw new RuntimeError("not_found", `configuration file ${path} does not exist`, {}, error);
  }
  return parseConfig(text, file, overrides);
}

function toml(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(toml).join(", ")}]`;
  if (isTable(value)) {
    const pairs = Object.entries(value).map(([k, val]) => `${JSON.stringify(k)} = ${toml(val)}`);
    return pairs.length > 0 ? `{ ${pairs.join(", ")} }` : "{}";
  }
  return JSON.stringify(value);
}

/** Every key with its meaning and default, as a configuration file. */
export function describeConfig(): string {
  const lines = (entries: v.ObjectEntries): string[] =>
    Object.entries(entries).flatMap(([name, entry]) => {
      const optional = entry as unknown as v.OptionalSchema<v.GenericSchema, unknown>;
      return [`# ${v.getDescription(optional.wrapped) ?? ""}`, `${name} = ${toml(v.getDefault(optional))}`];
    });
  const tables = Object.entries(sections).flatMap(([name, entries]) => ["", `[${name}]`, ...lines(entries)]);
  const profiles = [
    "",
    "# [runtimes.NAME] is a runtime handler that pods choose by their RuntimeClass. It may have these keys, and has those of [runtime] else:",
    `# ${Object.keys(profile.entries).join(", ")}`,
  ];
  return `${[...lines(general), ...tables, ...profiles].join("\n")}\n`;
}
