/** What callers ask for, in the library's terms. */
import { type Config, fromOciSpec, type ProcessSpec, processFromOci, type Resources } from "../core/library/public.ts";
import type { ContainerCreateRequest, ContainerImages, ContainerProcess, ContainerSize } from "../gen/caisson/v1/container.ts";
import { messageOf, RuntimeError } from "../lib/errors.ts";

export function invalid(message: string): RuntimeError {
  return new RuntimeError("invalid_argument", message);
}

function parseObject(what: string, text: string): object {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw invalid(`${what} is no JSON: ${messageOf(error)}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalid(`${what} is no JSON object`);
  return value;
}

export function configOf({ ociConfig, bundle, config }: ContainerCreateRequest): Config {
  if ((ociConfig === "") === (config === ""))
    throw invalid("a container is described by oci_config or by config: exactly one of them");
  if (config !== "") return parseObject("config", config) as Config;
  if (!bundle.startsWith("/")) throw invalid(`bundle ${JSON.stringify(bundle)} is not an absolute path`);
  return fromOciSpec(parseObject("oci_config", ociConfig), bundle).config;
}

/** Without stdio, which depends on the call. */
export function processOf(process: ContainerProcess | undefined): ProcessSpec {
  if (process === undefined) throw invalid("process is missing");
  const { ociProcess, size, args, env, cwd, user, terminal } = process;
  const sized = size === undefined ? {} : { consoleSize: sizeOf(size) };
  if (ociProcess !== "") {
    if (args.length > 0 || env.length > 0 || cwd !== "" || user !== "" || terminal)
      throw invalid("process: oci_process describes it whole; leave the other fields empty");
    return { ...processFromOci(parseObject("oci_process", ociProcess)), ...sized };
  }
  return { args, env, terminal, ...(cwd === "" ? {} : { cwd }), ...(user === "" ? {} : { user }), ...sized };
}

export function sizeOf({ rows, columns }: ContainerSize): { readonly rows: number; readonly cols: number } {
  return { rows, cols: columns };
}

export function resourcesOf(text: string): Resources {
  return parseObject("resources", text) as Resources;
}

export function imageOptionsOf(images: ContainerImages | undefined) {
  if (images === undefined || !images.directory.startsWith("/")) throw invalid("images.directory is not an absolute path");
  const { directory, workDirectory, tcpEstablished, externalUnixSockets, fileLocks, shellJob } = images;
  return {
    imagesDirectory: directory,
    ...(workDirectory === "" ? {} : { workDirectory }),
    tcpEstablished,
    externalUnixSockets,
    fileLocks,
    shellJob,
  };
}
