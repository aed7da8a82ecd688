// A hub on this machine, as good or as bad as a test wants it.
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { expect } from "vitest";
import { IoError } from "../../model/io/errors.ts";

export const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
export const gitSha = (bytes: Uint8Array): string =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

export interface Request {
  readonly path: string;
  readonly host: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

/** Takes a request for a file instead of the ordinary answer; false to let it pass. `n` counts the requests for that file from 1. */
export type Trick = (response: ServerResponse, bytes: Uint8Array, n: number, request: Request) => boolean;

export class HubServer {
  readonly commit = "0123456789abcdef0123456789abcdef01234567";
  readonly files = new Map<string, Uint8Array>();
  readonly requests: Request[] = [];
  readonly tricks = new Map<string, Trick>();
  /** Instead of the listing. */
  listing: unknown = null;
  listingStatus = 200;
  listingHeaders: Record<string, string> = {};
  /** Headers of the 401 that every request with a token gets; null to take any token. */
  refusesTokens: Record<string, string> | null = null;
  /** Files are sent from another server (its origin), as the hub does with large ones. */
  redirectTo: string | null = null;
  private readonly counts = new Map<string, number>();
  private readonly server: Server;

  constructor() {
    this.server = createServer((request, response) => this.answer(request, response));
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    return this;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  /** Requests for a file, its redirects not counted. */
  of(name: string): Request[] {
    return this.requests.filter(
      ({ path }) => path.endsWith(`/${encodeURIComponent(name)}`) && path.includes("/resolve/"),
    );
  }

  private answer(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url!, this.url);
    // For pages of another origin, as the hub does.
    response.setHeader("access-control-allow-origin", "*");
    if (request.method === "OPTIONS") {
      response.writeHead(204, { "access-control-allow-headers": "authorization, range" }).end();
      return;
    }
    const seen = {
      path: url.pathname,
      host: request.headers.host ?? "",
      range: request.headers.range,
      authorization: request.headers.authorization,
    };
    this.requests.push(seen);
    if (this.refusesTokens && seen.authorization !== undefined) {
      response.writeHead(401, this.refusesTokens).end();
      return;
    }
    if (url.pathname.startsWith("/api/models/")) {
      response.writeHead(this.listingStatus, { "content-type": "application/json", ...this.listingHeaders });
      response.end(typeof this.listing === "string" ? this.listing : JSON.stringify(this.listing ?? this.list()));
      return;
    }
    const name = decodeURIComponent(url.pathname.slice(url.pathname.lastIndexOf("/") + 1));
    const bytes = this.files.get(name);
    if (!bytes) {
      response.writeHead(404).end();
      return;
    }
    if (this.redirectTo && url.pathname.includes("/resolve/")) {
      response.writeHead(302, { location: `${this.redirectTo}${url.pathname}?signed=1` }).end();
      return;
    }
    const n = (this.counts.get(name) ?? 0) + 1;
    this.counts.set(name, n);
    if (this.tricks.get(name)?.(response, bytes, n, seen)) return;
    send(response, bytes, request.headers.range);
  }

  list(): { sha: string; siblings: Record<string, unknown>[] } {
    const siblings = [...this.files].map(([rfilename, bytes]) => {
      const isLarge = /\.(safetensors|bin)$/.test(rfilename);
      return {
        rfilename,
        size: bytes.length,
        blobId: gitSha(bytes),
        ...(isLarge ? { lfs: { sha256: sha256(bytes), size: bytes.length, pointerSize: 130 } } : {}),
      };
    });
    return { sha: this.commit, siblings };
  }
}

/** An ordinary answer, to a whole request or one with a range. */
export function send(response: ServerResponse, bytes: Uint8Array, range?: string): void {
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(range ?? "") ?? [];
  const start = Number(from ?? 0);
  const end = to ? Math.min(Number(to) + 1, bytes.length) : bytes.length;
  const head: Record<string, string> = { "content-length": String(end - start), "accept-ranges": "bytes" };
  if (range) head["content-range"] = `bytes ${start}-${end - 1}/${bytes.length}`;
  response.writeHead(range ? 206 : 200, head).end(bytes.subarray(start, end));
}

/** The beginning of an answer, then the line goes dead. */
export function breakOff(response: ServerResponse, bytes: Uint8Array, after: number, range?: string): boolean {
  const start = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
  response.writeHead(range ? 206 : 200, {
    "content-length": String(bytes.length - start),
    ...(range ? { "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` } : {}),
  });
  response.write(bytes.subarray(start, start + after), () => setTimeout(() => response.destroy(), 20));
  return true;
}

/** Fails unless `promise` rejects with an error of this class and message. */
export async function expectHubError(
  promise: Promise<unknown>,
  kind: abstract new (...args: never[]) => Error,
  message: RegExp,
): Promise<void> {
  const error: unknown = await promise.then(() => null, (e: unknown) => e); // prettier-ignore
  expect(error).toBeInstanceOf(kind);
  expect(error).toBeInstanceOf(IoError);
  expect((error as Error).message).toMatch(message);
}
