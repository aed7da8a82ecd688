/** Settings of the server, their defaults and their limits. */
import ipaddr from "ipaddr.js";
import { ArgumentError, shown } from "../engine/index.ts";
import { MAX_ROWS } from "../model/live_text.ts";

export interface ServerSettings {
  /** Address or name to listen on. */
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  /** Key that requests must bear; null for none. */
  readonly apiKey: string | null;
  /** Listen on a public address without a key. */
  readonly allowPublic: boolean;
  /** Name of the model in requests and answers. */
  readonly name: string;
  /** Answers that are computed at once. */
  readonly rows: number;
  /** Most tokens of a prompt and its answer; null: as many as the memory allows, at most 4,096. */
  readonly context: number | null;
  /** Images that are drawn at once. */
  readonly imageBatch: number;
  /** Requests that may wait for a row or a batch. */
  readonly queue: number;
  /** Choices and images of one request. */
  readonly choices: number;
  /** Seconds that a request may take, waiting included. */
  readonly timeoutS: number;
  /** Seconds that running requests have to finish when the server stops. */
  readonly graceS: number;
  /** Bytes of a request's body, and of all bodies that are being read. */
  readonly bodyBytes: number;
  readonly bodiesBytes: number;
  /** Images of one request, and the most pixels of each. */
  readonly images: number;
  readonly pixels: number;
  /** Bytes that the decoded images of all requests may hold. */
  readonly pixelsBytes: number;
  /** Fetch images by http and https from public addresses. */
  readonly remoteImages: boolean;
  /** Seconds in which the headers of a request, and the whole request, must arrive. */
  readonly headersS: number;
  readonly requestS: number;
}

export const DEFAULTS: Omit<ServerSettings, "name"> = {
  host: "127.0.0.1",
  port: 8000,
  apiKey: null,
  allowPublic: false,
  rows: 16,
  context: null,
  imageBatch: 16,
  queue: 256,
  choices: 16,
  timeoutS: 600,
  graceS: 30,
  bodyBytes: 32 * 2 ** 20,
  bodiesBytes: 256 * 2 ** 20,
  images: 8,
  pixels: 16e6,
  pixelsBytes: 2 ** 30,
  remoteImages: false,
  headersS: 10,
  requestS: 60,
};

/** Smallest and largest value of each number. */
const RANGES = {
  port: [0, 65535],
  rows: [1, MAX_ROWS],
  context: [2, 2 ** 24],
  imageBatch: [1, 64],
  queue: [0, 1e6],
  choices: [1, 128],
  timeoutS: [1, 86_400],
  graceS: [0, 86_400],
  bodyBytes: [1024, 2 ** 30],
  bodiesBytes: [1024, 2 ** 40],
  images: [0, 64],
  pixels: [1, 1e9],
  pixelsBytes: [1024, 2 ** 40],
  headersS: [1, 600],
  requestS: [1, 3600],
} as const satisfies Partial<Record<keyof ServerSettings, readonly [number, number]>>;

/** True for names and addresses that only this machine reaches. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, "").toLowerCase();
  if (bare === "localhost" || bare.endsWith(".localhost")) return true;
  return ipaddr.isValid(bare) && ipaddr.process(bare).range() === "loopback";
}

/** The settings with defaults. Throws `ArgumentError` for values out of range and for a public host without a key. */
export function checkSettings(given: Partial<ServerSettings> & Pick<ServerSettings, "name">): ServerSettings {
  const settings = { ...DEFAULTS, ...given };
  for (const [name, [least, most]] of Object.entries(RANGES)) {
    const value = settings[name as keyof typeof RANGES];
    if (value === null && name === "context") continue;
    if (!Number.isSafeInteger(value) || value! < least || value! > most)
      throw new ArgumentError(`serve: ${name} must be a whole number from ${least} to ${most}; got ${shown(value)}. Change it.`); // prettier-ignore
  }
  const { host, apiKey, allowPublic } = settings;
  if (host === "") throw new ArgumentError('serve: host must be a name or an address; got "". Use 127.0.0.1.');
  if (apiKey !== null && !/^[\x21-\x7e]{8,}$/.test(apiKey))
    throw new ArgumentError("serve: the API key must have at least 8 visible ASCII characters; got another one. Choose a longer key without spaces."); // prettier-ignore
  if (!isLoopback(host) && apiKey === null && !allowPublic)
    throw new ArgumentError(
      `serve: a host that others can reach needs an API key; got ${host} without one. Pass --api-key (or JANUS_API_KEY), or --allow-public to serve everyone.`,
    );
  return settings;
}
