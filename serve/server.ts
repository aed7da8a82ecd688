/** The HTTP server around the API: limits of connections, the page, and the ends of both. */
import { existsSync } from "node:fs";
import { createServer } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { createServer as createNetServer } from "node:net";
import type { AddressInfo, Server as NetServer, Socket } from "node:net";
import { fileURLToPath } from "node:url";
import { RequestError, getRequestListener } from "@hono/node-server";
import { ArgumentError } from "../engine/errors.ts";
import { Gate, createApp } from "./app.ts";
import { BodyReader } from "./body.ts";
import { ApiError, apiErrorOf, invalid, unavailable } from "./errors.ts";
import { ModelHost } from "./host.ts";
import type { OpenModel } from "./host.ts";
import { ImageReader } from "./image_input.ts";
import { Log } from "./log.ts";
import { openMetrics } from "./metrics.ts";
import { checkSettings } from "./settings.ts";
import type { ServerSettings } from "./settings.ts";

export interface RunningServer {
  /** `http://127.0.0.1:8000` */
  readonly url: string;
  readonly host: ModelHost;
  /** The folder of the page; null if it was not built. */
  readonly page: string | null;
  /** Refuses new requests, lets the running ones finish for `graceS` seconds, then ends them. Resolves to how many were ended. */
  stop(): Promise<number>;
}

export interface StartOptions {
  readonly settings: Partial<ServerSettings> & Pick<ServerSettings, "name">;
  /** Loads the model, now and after each loss of the device. */
  readonly open: () => Promise<OpenModel>;
  /** Takes the lines of the log. */
  readonly write: (line: string) => void;
  /** The folder of the page; null for none (default: where the build puts it). */
  readonly page?: string | null;
}

/** Where the build puts the page: beside this module in the package, below `dist` in a checkout. */
function builtPage(): string | null {
  const places = ["../app/", "../dist/app/"].map((path) => fileURLToPath(new URL(path, import.meta.url)));
  return places.find((folder) => existsSync(`${folder}index.html`)) ?? null;
}

const MAX_HEADER_BYTES = 16 * 1024;
const MAX_HEADERS = 100;
/** Connections that the system accepts before the process does: with Node's 511, some of 2,000 clients that come at once time out. */
const BACKLOG = 4096;
/** Seconds that an idle connection stays open: a client that was busy for longer than that would send its next request into a closed one. */
const KEEP_ALIVE_S = 65;
/** Seconds that a connection may be silent longer than a request may take: one whose client does not read is closed then. */
const SILENT_S = 30;

/**
 * Starts the server; it answers once the promise resolves. Throws `ArgumentError` for settings out of range and, before it loads the model, for
 * an address that cannot be used; what `open` throws.
 */
export async function startServer(options: StartOptions): Promise<RunningServer> {
  const settings = checkSettings(options.settings);
  const log = new Log(options.write);
  const metrics = await openMetrics(() => host.levels);
  const host: ModelHost = new ModelHost(options.open, settings, metrics, log);
  const gate = new Gate(settings);
  const reader = new ImageReader(settings);
  const page = options.page === undefined ? builtPage() : options.page;
  const app = createApp({ settings, host, metrics, log, bodies: new BodyReader(settings), reader, gate });
  // A request without a name, as HTTP/1.0 allows, is for this machine. Names and paths that make no URL never reach the routes.
  const errorHandler = (error: unknown): Response => {
    const answer = error instanceof RequestError ? invalid("the path and the Host header must make a URL; got others. Correct them.", undefined, "bad_http") : apiErrorOf(error); // prettier-ignore
    return Response.json(answer.body, { status: answer.status });
  };
  const api = getRequestListener(app.fetch, { overrideGlobalObjects: false, hostname: "localhost", errorHandler });
  const server = limitedServer(settings, await withPage(page, (message, answer) => void api(message, answer)));
  await requireAddress(settings);
  await host.start();
  try {
    await listen(server, settings);
  } catch (error) {
    await host.stop(error);
    throw error;
  }
  const { port } = server.address() as AddressInfo;
  const name = settings.host.includes(":") ? `[${settings.host.replace(/^\[|\]$/g, "")}]` : settings.host;
  const stop = async (): Promise<number> => {
    gate.isClosed = true;
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeIdleConnections();
    const isDone = await within(gate.empty(), settings.graceS);
    const cut = isDone ? 0 : gate.count;
    await host.stop(unavailable("the server stops. Send the request again later.", "stopping", 10));
    await within(gate.empty(), 1); // answers with the error leave
    server.closeAllConnections();
    await closed;
    await reader.close();
    return cut;
  };
  return { url: `http://${name}:${port}`, host, page, stop };
}

type Listener = (message: IncomingMessage, answer: ServerResponse) => void;

function limitedServer(settings: ServerSettings, listener: Listener): Server {
  const server = createServer(
    {
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: 1000 * settings.headersS,
      requestTimeout: 1000 * Math.max(settings.requestS, settings.headersS),
      connectionsCheckingInterval: 1000,
      keepAliveTimeout: 1000 * KEEP_ALIVE_S,
      requireHostHeader: false,
    },
    listener,
  );
  // Each request of a connection listens to its end.
  server.on("connection", (socket: Socket) => socket.setMaxListeners(0));
  server.maxHeadersCount = MAX_HEADERS;
  server.setTimeout(1000 * (settings.timeoutS + SILENT_S));
  server.on("clientError", refuseConnection);
  return server;
}

/** Requests that Node's parser refuses: they never reach the routes. */
function refuseConnection(error: NodeJS.ErrnoException, socket: Socket): void {
  if (!socket.writable || error.code === "ECONNRESET") return void socket.destroy();
  const [status, text] =
    error.code === "HPE_HEADER_OVERFLOW"
      ? [431, "Request Header Fields Too Large"]
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? [408, "Request Timeout"]
        : [400, "Bad Request"];
  const body = JSON.stringify(new ApiError(status as number, String(text), { code: "bad_http" }).body);
  socket.end(`HTTP/1.1 ${status} ${text}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`); // prettier-ignore
}

const isApi = (url: string): boolean => /^\/(v1|health|metrics)(\/|\?|$)/.test(url);

/** Files of the page are served beside the API; without a page `/` says how to build it. */
export async function withPage(page: string | null, api: Listener): Promise<Listener> {
  if (page === null)
    return (message, answer) => {
      if (message.url !== "/" || message.method !== "GET") return api(message, answer);
      answer.writeHead(404, { "Content-Type": "text/plain; charset=utf-8" });
      answer.end("The page was not built. Build it with npm run build, then start the server again.\nThe API is below /v1; docs/server.md describes it.\n"); // prettier-ignore
    };
  const { default: sirv } = await import("sirv");
  const files = sirv(page, {
    etag: true,
    setHeaders: (answer, path) => {
      // Isolated pages get exact timers and shared memory.
      answer.setHeader("Cross-Origin-Opener-Policy", "same-origin");
      answer.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
      answer.setHeader("X-Content-Type-Options", "nosniff");
      if (path.endsWith(".wgsl")) answer.setHeader("Content-Type", "text/plain; charset=utf-8");
    },
  });
  return (message, answer) => {
    if (isApi(message.url ?? "/")) api(message, answer);
    else files(message, answer, () => api(message, answer));
  };
}

/** What to do about an address that the system refuses, by its code. */
const REFUSED: Readonly<Record<string, string>> = {
  EADDRINUSE: "a program has it already; stop that one, or choose another port",
  EACCES: "the system does not allow it; choose a port from 1024 on",
  EADDRNOTAVAIL: "this machine has no such address; choose another host",
  ENOTFOUND: "the name of the host is not known; choose another host",
};

/** Throws `ArgumentError` if nobody could listen there: loading a model takes long. */
async function requireAddress(settings: ServerSettings): Promise<void> {
  const probe = createNetServer();
  await listen(probe, settings);
  await new Promise<void>((resolve) => probe.close(() => resolve()));
}

function listen(server: NetServer, { host, port }: ServerSettings): Promise<void> {
  return new Promise((resolve, reject) => {
    const refuse = (error: NodeJS.ErrnoException): void => {
      const why = REFUSED[error.code ?? ""];
      reject(why === undefined ? error : new ArgumentError(`serve: the server must listen at ${host}, port ${port}; got ${error.code!}: ${why}.`)); // prettier-ignore
    };
    server.once("error", refuse);
    server.listen({ port, host: host.replace(/^\[|\]$/g, ""), backlog: BACKLOG }, () => {
      server.off("error", refuse);
      resolve();
    });
  });
}

/** True if `promise` resolves within the time. */
async function within(promise: Promise<void>, seconds: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => (timer = setTimeout(() => resolve(false), 1000 * seconds)));
  const isDone = await Promise.race([promise.then(() => true), late]);
  clearTimeout(timer);
  return isDone;
}
