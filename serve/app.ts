/** The routes of the API. What concerns every request (keys, limits, logs, errors) is around them. */
import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import type { HttpBindings } from "@hono/node-server";
import { Hono } from "hono";
import type { Context, Handler } from "hono";
import type { BodyReader } from "./body.ts";
import { chat } from "./chat.ts";
import { ApiError, apiErrorOf, unavailable } from "./errors.ts";
import type { ModelHost } from "./host.ts";
import type { ImageReader } from "./image_input.ts";
import { images } from "./images.ts";
import type { Fields, Log } from "./log.ts";
import type { Metrics } from "./metrics.ts";
import { isLoopback } from "./settings.ts";
import type { ServerSettings } from "./settings.ts";
import { checkModel } from "./work.ts";

/** What a route may use. */
export interface Parts {
  readonly settings: ServerSettings;
  readonly host: ModelHost;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly bodies: BodyReader;
  readonly reader: ImageReader;
  readonly gate: Gate;
}

interface Variables {
  id: string;
  /** Name of the route in logs and metrics. */
  route: string;
  /** What the route adds to the line of the log. */
  fields: Record<string, Fields[string]>;
  /** Set by answers that end after the route has returned. */
  streamed: Promise<void> | null;
}

export interface Env {
  Bindings: HttpBindings;
  Variables: Variables;
}

/** Counts the requests for work, and refuses what does not fit. */
export class Gate {
  isClosed = false;
  private open = 0;
  /** A recent duration of a request, ms. */
  private durationMs = 1000;
  private readonly settings: Pick<ServerSettings, "queue" | "rows">;
  private idle: (() => void) | null = null;

  constructor(settings: Pick<ServerSettings, "queue" | "rows">) {
    this.settings = settings;
  }

  /** Counts a request until the returned function is called. Throws `ApiError` 429 and 503. */
  enter(): () => void {
    if (this.isClosed) throw unavailable("the server stops. Send the request again later.", "stopping", 10);
    const { queue, rows } = this.settings;
    if (this.open >= queue + rows) {
      const waitS = (this.durationMs / 1000) * Math.ceil(queue / rows);
      throw new ApiError(429, `at most ${queue} requests may wait. Send the request again later.`, {
        type: "rate_limit_error",
        code: "queue_full",
        retryAfterS: Math.min(60, Math.max(1, Math.ceil(waitS))),
      });
    }
    this.open++;
    const started = performance.now();
    return () => {
      this.durationMs += 0.1 * (performance.now() - started - this.durationMs);
      if (--this.open === 0) this.idle?.();
    };
  }

  /** Requests that are open. */
  get count(): number {
    return this.open;
  }

  /** Resolves once no request is open. */
  empty(): Promise<void> {
    return this.open === 0 ? Promise.resolve() : new Promise((resolve) => (this.idle = resolve));
  }
}

const hash = (text: string): Buffer => createHash("sha256").update(text).digest();

/** Throws `ApiError` 401 unless the request bears the key. */
function checkKey(c: Context<Env>, key: string | null): void {
  if (key === null) return;
  const [, given = ""] = /^Bearer\s+(.*)$/i.exec(c.req.header("authorization") ?? "") ?? [];
  if (!timingSafeEqual(hash(given), hash(key)))
    throw new ApiError(401, "a valid API key is required. Send it as Authorization: Bearer KEY.", { type: "authentication_error", code: "invalid_api_key" }); // prettier-ignore
}

/** Without a key the name must be the server's own: a page of another site may make its name point here. */
function checkHost(c: Context<Env>, { host, apiKey, allowPublic }: ServerSettings): void {
  if (apiKey !== null || allowPublic) return;
  const name = (c.req.header("host") ?? "").replace(/:\d*$/, "");
  if (!isLoopback(name) && name !== host)
    throw new ApiError(403, "without an API key the server answers only under its own name. Use that, or start it with --api-key.", { type: "permission_error", code: "wrong_host" }); // prettier-ignore
}

/** One line of the log, and the metrics of a request. */
function report(c: Context<Env>, parts: Parts, startedMs: number): void {
  const { route, fields, id } = c.var;
  const status = typeof fields.status === "number" ? fields.status : c.res.status;
  const ms = performance.now() - startedMs;
  parts.metrics.requests.inc({ route, status });
  parts.metrics.duration.observe({ route }, ms / 1000);
  if (route === "health" || route === "metrics") return;
  const client = c.env.incoming.socket.remoteAddress;
  parts.log.request({ id, method: c.req.method, route, client, ...fields, status, ms: Math.round(ms) });
}

function errorResponse(c: Context<Env>, thrown: unknown, log: Log): Response {
  const error = apiErrorOf(thrown);
  if (error.status === 500) log.problem(`request ${c.var.id} failed`, thrown);
  c.set("fields", { ...c.var.fields, error: error.code ?? error.message.slice(0, 200) });
  if (error.retryAfterS !== null) c.header("Retry-After", String(error.retryAfterS));
  if (error.status === 401) c.header("WWW-Authenticate", "Bearer");
  // What is left of a body is not read.
  if (error.status === 413 || error.status === 415 || error.status === 429) c.header("Connection", "close");
  return c.json(error.body, error.status as 400);
}

/** What stands around every route. */
function around(app: Hono<Env>, parts: Parts): void {
  app.use(async (c, next) => {
    const started = performance.now();
    c.set("id", randomUUID());
    c.set("route", "other");
    c.set("fields", {});
    c.set("streamed", null);
    c.header("x-request-id", c.var.id);
    await next();
    if (c.var.streamed) void c.var.streamed.then(() => report(c, parts, started));
    else report(c, parts, started);
  });
  app.onError((error, c) => errorResponse(c, error, parts.log));
  app.notFound((c) => errorResponse(c, new ApiError(404, "there is nothing at this path. docs/server.md lists the paths.", { code: "not_found" }), parts.log)); // prettier-ignore
}

const METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];

/** A route that answers one method and refuses others. */
function route(
  app: Hono<Env>,
  parts: Parts,
  [method, path, name, isOpen]: readonly [string, string, string, boolean],
  handler: Handler<Env>,
): void {
  // prettier-ignore
  app.on(METHODS, path, async (c, next) => {
    c.set("route", name);
    checkHost(c, parts.settings);
    if (!isOpen) checkKey(c, parts.settings.apiKey);
    // HEAD comes as GET.
    if (c.req.method === method || (method === "GET" && c.req.method === "HEAD")) return handler(c, next);
    c.header("Allow", method);
    throw new ApiError(405, `this path takes ${method}. Use that method.`, { code: "method_not_allowed" });
  });
}

/** The API as a web application. */
export function createApp(parts: Parts): Hono<Env> {
  const app = new Hono<Env>();
  const { host, settings, metrics } = parts;
  around(app, parts);
  const created = Math.floor(Date.now() / 1000);
  const model = (): object => {
    const { janus, live } = host.model;
    const canDraw = !janus.model.missing.includes("generate images");
    const limits = { context: live.capacity, image_size: canDraw ? janus.model.model.vqmodel.imageSize : null };
    const { guidance, temperature } = janus.processor.drawing;
    return { id: settings.name, object: "model", created, owned_by: "janus-webgpu", ...limits, drawing: { guidance, temperature }, fingerprint: janus.fingerprint }; // prettier-ignore
  };
  route(app, parts, ["GET", "/health", "health", true], (c) => {
    const isReady = host.isReady && !parts.gate.isClosed;
    const status = isReady ? "ok" : parts.gate.isClosed ? "stopping" : "the device is lost";
    return c.json({ status }, isReady ? 200 : 503);
  });
  route(app, parts, ["GET", "/metrics", "metrics", false], async (c) => c.text(await metrics.text(), 200, { "Content-Type": metrics.contentType })); // prettier-ignore
  route(app, parts, ["GET", "/v1/models", "models", false], (c) => c.json({ object: "list", data: [model()] }));
  route(app, parts, ["GET", "/v1/models/:model{.+}", "models", false], (c) => {
    checkModel(c.req.param("model")!, settings);
    return c.json(model());
  });
  route(app, parts, ["POST", "/v1/chat/completions", "chat", false], (c) => chat(c, parts));
  route(app, parts, ["POST", "/v1/images/generations", "images", false], (c) => images(c, parts));
  return app;
}
