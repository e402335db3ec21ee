import { Process, type ProcessSpec } from "../../core/library/public.ts";
import type { Command, CommandContext } from "../command.ts";
import { CommandError } from "../command-error.ts";
import { readBundle, readProcess } from "./bundle.ts";
import { Foreground } from "./foreground.ts";
import { consoleSocketFor, ownStdio } from "./init-flags.ts";
import { loadContainer } from "./loaded.ts";
import { descriptorsToPass } from "./passed-descriptors.ts";
import { writePidFile } from "./pid-file.ts";
import { sendPidfd } from "./pidfd-socket.ts";

const failure = 255;

export const exec: Command = {
  name: "exec",
  arguments: "ID [COMMAND [ARGUMENT...]]",
  summary: "run a further process in a running container, and end as it ends",
  details:
    "Without --process it is like the first one of the bundle's config.json, without its terminal. A failure of this command itself is\n" +
    "exit code 255.",
  arity: [1, Number.POSITIVE_INFINITY],
  flags: {
    process: { short: "p", value: "FILE", about: "the process, as config.json has it" },
    cwd: { value: "DIR", about: "working directory in the container" },
    env: { short: "e", value: "NAME=VALUE", about: "another variable; may be repeated" },
    tty: { short: "t", about: "give it a terminal" },
    user: { short: "u", value: "UID[:GID]", about: "who it runs as" },
    "additional-gids": { short: "g", value: "GID", about: "another group; may be repeated" },
    cap: { short: "c", value: "CAPABILITY", about: "another capability; may be repeated" },
    "no-new-privs": { about: "it cannot gain privileges" },
    detach: { short: "d", about: "return when the process runs" },
    "pid-file": { value: "FILE", about: "where its pid is written" },
    "console-socket": { value: "PATH", about: "who is sent the terminal's master, with --detach" },
    "preserve-fds": { value: "N", about: "pass N further descriptors, from 3 on, after those of LISTEN_FDS" },
    "process-label": { value: "LABEL", about: "SELinux label" },
    apparmor: { value: "PROFILE", about: "AppArmor profile" },
    cgroup: { value: "PATH", about: "a cgroup below the container's own, which exists" },
    "ignore-paused": { about: "in a paused container, wait until it is resumed" },
    "pidfd-socket": { value: "PATH", about: "who is sent a pidfd of it" },
    "no-subreaper": { about: "accepted for callers of other runtimes", hidden: true },
  },
  flagsFirst: true,
  failure,
  local: true,
  async run(context) {
    const { flags } = context;
    const ignorePaused = flags.has("ignore-paused");
    using container = await loadContainer(context);
    const status = await container.status();
    if (status === "stopped") throw new CommandError("cannot exec in a stopped container", failure);
    if (status === "paused" && !ignorePaused)
      throw new CommandError("cannot exec in a paused container (use --ignore-paused to override)", failure);
    const spec = processOf(context, container.config().labels?.bundle ?? "");
    const detached = flags.has("detach");
    const consoleSocket = consoleSocketFor(flags, spec.terminal === true, detached);
    const foreground = detached ? undefined : new Foreground(spec);
    const process = new Process({
      ...spec,
      ...ownStdio(spec),
      ...(consoleSocket === undefined ? {} : { consoleSocket }),
      ...subCgroupOf(flags.one("cgroup")),
      ...foreground?.settings,
    });
    try {
      await container.exec(process, { ignorePaused });
      foreground?.join(process);
      writePidFile(flags.one("pid-file"), process.pid);
      sendPidfd(flags.one("pidfd-socket"), process.pid, "setns");
      return (await foreground?.leave()) ?? 0;
    } finally {
      foreground?.[Symbol.dispose]();
    }
  },
};

/** runc's form with controllers in front is for hierarchies that differ, which ours never do. */
function subCgroupOf(path: string | undefined): Pick<ProcessSpec, "subCgroup"> {
  if (path?.includes(":")) throw new CommandError("exec --cgroup is one path, the same in every hierarchy", failure);
  return path === undefined ? {} : { subCgroup: path };
}

function processOf(context: CommandContext, bundle: string): ProcessSpec {
  const { flags, args } = context;
  const file = flags.one("process");
  const passed = descriptorsToPass(flags.integer("preserve-fds") ?? 0);
  if (file !== undefined) {
    const process = readProcess(file);
    return { ...process, env: [...(process.env ?? []), ...passed.env], extraFiles: passed.fds };
  }
  if (args.length < 2) throw new CommandError("exec args cannot be empty", failure);
  const { process } = readBundle(bundle);
  const [cwd, apparmorProfile, selinuxLabel] = ["cwd", "apparmor", "process-label"].map((name) => flags.one(name));
  return {
    ...process,
    ...userOf(process, flags.one("user"), flags.all("additional-gids")),
    ...capabilitiesOf(process, flags.all("cap")),
    args: args.slice(1),
    terminal: flags.has("tty"),
    env: [...(process.env ?? []), ...flags.all("env"), ...passed.env],
    extraFiles: passed.fds,
    ...(cwd === undefined ? {} : { cwd }),
    ...(apparmorProfile === undefined ? {} : { apparmorProfile }),
    ...(selinuxLabel === undefined ? {} : { selinuxLabel }),
    ...(flags.has("no-new-privs") ? { noNewPrivileges: true } : {}),
  };
}

/** Numbers only: "-u 1" is the id 1 whatever a passwd file says (CVE-2026-30892). */
function userOf(
  { user }: ProcessSpec,
  text: string | undefined,
  groups: readonly string[],
): Pick<ProcessSpec, "user"> | undefined {
  const before = typeof user === "object" ? user : { uid: 0, gid: 0 };
  const additionalGids = [...(before.additionalGids ?? []), ...groups.map(idOf)];
  if (text === undefined) return { user: { ...before, additionalGids } };
  const [uid = "", gid, ...more] = text.split(":");
  if (more.length > 0) throw new CommandError(`--user is UID[:GID], not ${JSON.stringify(text)}`, failure);
  return { user: { uid: idOf(uid), gid: gid === undefined ? before.gid : idOf(gid), additionalGids } };
}

function idOf(text: string): number {
  if (!/^\d{1,10}$/.test(text)) throw new CommandError(`${JSON.stringify(text)} is no numeric id`, failure);
  return Number(text);
}

/** Ambient only where the container's processes have inheritable ones: an ambient capability must be inheritable. */
function capabilitiesOf({ capabilities }: ProcessSpec, added: readonly string[]): Pick<ProcessSpec, "capabilities"> {
  if (added.length === 0) return capabilities === undefined ? {} : { capabilities };
  const names = added.map((name) => (name.toUpperCase().startsWith("CAP_") ? name.toUpperCase() : `CAP_${name.toUpperCase()}`));
  const plus = (set: readonly string[] | undefined) => [...new Set([...(set ?? []), ...names])];
  const inheritable = capabilities?.inheritable ?? [];
  return {
    capabilities: {
      ...capabilities,
      bounding: plus(capabilities?.bounding),
      effective: plus(capabilities?.effective),
      permitted: plus(capabilities?.permitted),
      ...(inheritable.length === 0 ? {} : { inheritable: plus(inheritable), ambient: plus(capabilities?.ambient) }),
    },
  };
}
