import type { ContainerConfig } from "../gen/cri/v1/api.ts";
import type { ImageConfig } from "../image/image-service.ts";
import { textOfBytes } from "../lib/raw-text.ts";
import { cleanAbsolutePath, invalid, quoted } from "./translate-check.ts";

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** cri-semantics 3, CreateContainer: a command replaces the image's entrypoint and its arguments; arguments alone replace only those. */
export function resolveArgs(
  config: Pick<ContainerConfig, "command" | "args">,
  image: Pick<ImageConfig, "entrypoint" | "cmd">,
): string[] {
  let args: string[];
  if (config.command.length > 0) args = [...config.command, ...config.args];
  else if (config.args.length > 0) args = [...image.entrypoint, ...config.args];
  else args = [...image.entrypoint, ...image.cmd];
  if (args.length === 0) throw invalid("no command specified: neither the container config nor the image names one");
  const bad = args.findIndex((arg) => arg.includes("\0"));
  if (bad >= 0) throw invalid(`argument ${bad} of the command contains a NUL character`);
  return args;
}

function checkVariable(key: string, value: string): void {
  if (key === "" || key.includes("=") || key.includes("\0")) {
    throw invalid(`environment variable name ${quoted(key)} is empty or contains "=" or a NUL character`);
  }
  if (value.includes("\0")) throw invalid(`value of environment variable ${quoted(key)} contains a NUL character`);
}

/** Defaults, then the image's variables, then the config's; a later value replaces an earlier one in its place. HOME is the core's. */
export function resolveEnvironment(
  config: Pick<ContainerConfig, "envs" | "tty">,
  image: Pick<ImageConfig, "env">,
  hostname: string,
): string[] {
  const variables = new Map<string, string>([
    ["PATH", defaultPath],
    ["HOSTNAME", hostname],
  ]);
  if (config.tty) variables.set("TERM", "xterm");
  for (const entry of image.env) {
    const at = entry.indexOf("=");
    // Some builders leave a bare "NAME": it has no value to set.
    if (at < 0) continue;
    const [key, value] = [entry.slice(0, at), entry.slice(at + 1)];
    checkVariable(key, value);
    variables.set(key, value);
  }
  for (const variable of config.envs) {
    const value = textOfBytes(variable.value);
    checkVariable(variable.key, value);
    variables.set(variable.key, value);
  }
  return [...variables].map(([key, value]) => `${key}=${value}`);
}

export function resolveWorkingDir(config: Pick<ContainerConfig, "workingDir">, image: Pick<ImageConfig, "workingDir">): string {
  if (config.workingDir !== "") return cleanAbsolutePath("working_dir", config.workingDir);
  if (image.workingDir !== "") return cleanAbsolutePath("the image's working directory", image.workingDir);
  return "/";
}
