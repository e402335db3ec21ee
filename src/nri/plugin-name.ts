import { RuntimeError } from "../lib/errors.ts";

export interface PluginName {
  /** Two digits: plugins are called in this order. */
  readonly index: string;
  readonly base: string;
}

const invalid = (message: string): RuntimeError => new RuntimeError("invalid_argument", message);

/** @throws RuntimeError invalid_argument. */
export function checkedName(index: string, base: string): PluginName {
  if (!/^[0-9]{2}$/.test(index)) throw invalid(`plugin index ${JSON.stringify(index)} is not two digits`);
  if (!/^[A-Za-z0-9_.+-]{1,128}$/.test(base)) {
    throw invalid(`plugin name ${JSON.stringify(base.slice(0, 128))} is not made of letters, digits and "-_.+"`);
  }
  return { index, base };
}

/** "INDEX-BASE", as files of pre-installed plugins are called. @throws RuntimeError invalid_argument. */
export function parseFileName(file: string): PluginName {
  const dash = file.indexOf("-");
  if (dash < 0) throw invalid(`plugin file ${JSON.stringify(file)} is not called INDEX-NAME`);
  return checkedName(file.slice(0, dash), file.slice(dash + 1));
}

export const fullName = ({ index, base }: PluginName): string => `${index}-${base}`;

/** The configuration names a plugin with or without its index. */
export const isNamed = (name: PluginName, wanted: string): boolean => wanted === name.base || wanted === fullName(name);

export const isSame = (a: PluginName, b: PluginName): boolean => fullName(a) === fullName(b);
