import type { DNSConfig } from "../gen/cri/v1/api.ts";
import { hasControlCharacter, invalid, quoted } from "./translate-check.ts";

/** Kernel limit of the UTS namespace. */
const longestHostname = 64;

/** The pod's host name: as asked, else the node's (host network) or the start of its id. It becomes a file's content and a variable. */
export function resolveHostname(asked: string, hostNetwork: boolean, nodeHostname: string, podId: string): string {
  if (asked === "") return hostNetwork ? nodeHostname : podId.slice(0, 12);
  if (Buffer.byteLength(asked) > longestHostname)
    throw invalid(`hostname ${quoted(asked)} is longer than ${longestHostname} bytes`);
  if (!/^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$/.test(asked)) {
    throw invalid(`hostname ${quoted(asked)} may only contain letters, digits, "-", "_" and "."`);
  }
  return asked;
}

/** One word of resolv.conf: whitespace would forge further lines or entries. */
function word(what: string, text: string): string {
  if (text === "" || /\s/.test(text) || hasControlCharacter(text))
    throw invalid(`dns_config ${what} ${quoted(text)} is not one word`);
  return text;
}

/** null (the node's own file is copied) without a DNS config; an empty config gives an empty file. */
export function resolvConf(dns: DNSConfig | undefined): string | null {
  if (dns === undefined) return null;
  const lines: string[] = [];
  if (dns.searches.length > 0) lines.push(`search ${dns.searches.map((name) => word("search", name)).join(" ")}`);
  for (const server of dns.servers) lines.push(`nameserver ${word("server", server)}`);
  if (dns.options.length > 0) lines.push(`options ${dns.options.map((option) => word("option", option)).join(" ")}`);
  return lines.map((line) => `${line}\n`).join("");
}

/** The node's own file (null) for host-network pods. Others get the loopback names; the kubelet mounts its own version over it. */
export function hostsFile(hostNetwork: boolean): string | null {
  if (hostNetwork) return null;
  return [
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "fe00::0\tip6-mcastprefix",
    "fe00::1\tip6-allnodes",
    "fe00::2\tip6-allrouters",
    "",
  ].join("\n");
}
