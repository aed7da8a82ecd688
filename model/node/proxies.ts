/** Proxies of the environment, and which address goes through one of them, as for curl and the hub's own tools. */
import { BlockList, isIP } from "node:net";
import { quote } from "../io/errors.ts";
import { HubError } from "./hub_settings.ts";
import type { Environment } from "./hub_settings.ts";

/** Proxies by the scheme of the address that is asked for; "" for none. */
export interface Proxies {
  readonly http: string;
  readonly https: string;
  /** Addresses that are asked directly. */
  readonly none: readonly Direct[];
}

/** An entry of NO_PROXY. */
interface Direct {
  /** "*" for all hosts; a name stands for the hosts below it too. */
  readonly host: string;
  /** A range of addresses, such as 10.0.0.0/8. */
  readonly range: BlockList | null;
  /** "" for any. */
  readonly port: string;
}

/** Proxies from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY. Throws `HubError` for an address or range that is none, and for SOCKS. */
export function proxiesOf(env: Environment): Proxies {
  const of = (scheme: string): string => {
    const names = [`${scheme}_proxy`, `${scheme.toUpperCase()}_PROXY`, "all_proxy", "ALL_PROXY"];
    const name = names.find((one) => env[one]);
    return name === undefined ? "" : proxyOf(name, env[name]!);
  };
  const none = (env.no_proxy || env.NO_PROXY || "").split(/[\s,]+/).filter((entry) => entry !== "");
  return { http: of("http"), https: of("https"), none: none.map(directOf) };
}

/** The address of a proxy; `host:port` stands for `http://host:port`. Its text may contain a password, so messages leave it out. */
function proxyOf(name: string, text: string): string {
  const address = /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`;
  if (!URL.canParse(address)) throw new HubError(`${name} is not the address of a proxy; write http://host:port`);
  const { protocol } = new URL(address);
  if (!/^https?:$/.test(protocol))
    throw new HubError(`${name} names a proxy of the kind ${protocol}//; http:// and https:// are supported`);
  return address;
}

const family = (address: string): "ipv4" | "ipv6" => (isIP(address) === 6 ? "ipv6" : "ipv4");

function directOf(entry: string): Direct {
  if (entry.includes("/")) return { host: "", range: rangeOf(entry), port: "" };
  if (isIP(entry) === 6) return { host: entry, range: null, port: "" };
  const [, host = entry, port = ""] = /^(.+?)(?::(\d+))?$/.exec(entry) ?? [];
  return { host: host.replace(/^\*?\.|^\[|\]$/g, "").toLowerCase(), range: null, port };
}

function rangeOf(entry: string): BlockList {
  const [, address, bits] = /^(.+)\/(\d+)$/.exec(entry) ?? [];
  const most = isIP(address ?? "") === 6 ? 128 : 32;
  if (address === undefined || isIP(address) === 0 || Number(bits) > most)
    throw new HubError(`NO_PROXY: ${quote(entry)} is no range of addresses; write one like 10.0.0.0/8, or a host`);
  const range = new BlockList();
  range.addSubnet(address, Number(bits), family(address));
  return range;
}

/** The proxy that an address is asked through; "" for none. */
export function proxyFor({ protocol, hostname, port }: URL, { http, https, none }: Proxies): string {
  const host = hostname.toLowerCase().replace(/^\[|\]$/g, "");
  const asked = port || (protocol === "https:" ? "443" : "80");
  const isDirect = none.some((entry) => {
    if (entry.range) return isIP(host) !== 0 && entry.range.check(host, family(host));
    const isHost = entry.host === "*" || host === entry.host || host.endsWith(`.${entry.host}`);
    return isHost && (entry.port === "" || entry.port === asked);
  });
  if (isDirect) return "";
  return protocol === "https:" ? https : http;
}
