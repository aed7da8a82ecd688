/** Requests to the hub: proxies, the token, redirects, what each status means, and retries of what may pass. */
import { setTimeout as delay } from "node:timers/promises";
import type { Dispatcher, Response } from "undici";
import { MAX_WAIT_MS, MAY_PASS, Retry, causeOf, eachChunk, inBrackets, retryAfter } from "../io/hub_body.ts";
import { HubAccessError, HubError, HubNetworkError, HubNotFoundError, requireToken } from "./hub_settings.ts";
import type { Environment, HubSettings } from "./hub_settings.ts";
import { proxiesOf, proxyFor } from "./proxies.ts";
import type { Proxies } from "./proxies.ts";

const MAX_REDIRECTS = 8;
/** A shorter wait needs no notice. */
const NOTICED_MS = 500;
const REDIRECTS = [301, 302, 303, 307, 308];

export interface TransportOptions {
  readonly settings: Pick<HubSettings, "endpoint" | "token" | "tokenFrom" | "stallMs">;
  /** For the proxies. */
  readonly env: Environment;
  /** Tries in a row that bring nothing before the connection is given up. */
  readonly retries: number;
  /** Wait before the second try; it doubles from there. */
  readonly backoffMs: number;
  readonly signal: AbortSignal | undefined;
  readonly onNotice: ((message: string) => void) | undefined;
}

export interface RequestOptions {
  /** Name of the request; begins messages. */
  readonly what: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Statuses besides 2xx that `use` gets instead of an error. */
  readonly pass?: readonly number[];
}

export class Transport {
  readonly signal: AbortSignal | undefined;
  private readonly options: TransportOptions;
  private readonly proxies: Proxies;
  /** By the address of the proxy, "" for none. */
  private readonly dispatchers = new Map<string, Dispatcher>();
  /** A name that is not found may pass once the host has answered. */
  private hasAnswered = false;
  private isRefusalNoticed = false;
  /** Message of the hub that refused the token; later requests do not send it. */
  private refusal: string | null = null;

  /** Throws `HubError` for proxies and tokens that cannot be used. */
  constructor(options: TransportOptions) {
    this.options = options;
    this.signal = options.signal;
    this.proxies = proxiesOf(options.env);
    requireToken(options.settings);
  }

  /**
   * One GET; `use` reads the answer, and calls `alive` for each piece of it. Throws `Retry` for what may pass, a `HubError` for what will not.
   */
  async request<T>(
    url: string,
    { what, headers = {}, pass = [] }: RequestOptions,
    use: (response: Response, alive: () => void, at: string) => Promise<T>,
  ): Promise<T> {
    const { stallMs } = this.options.settings;
    const controller = new AbortController();
    const onAbort = (): void => controller.abort(this.signal?.reason);
    if (this.signal?.aborted) onAbort();
    this.signal?.addEventListener("abort", onAbort, { once: true });
    const stalled = new Retry(`nothing came for ${stallMs / 1000} s`);
    const timer = setTimeout(() => controller.abort(stalled), stallMs);
    let response: Response | null = null;
    try {
      const { response: answer, at } = await this.follow(url, headers, controller.signal);
      response = answer;
      if (!pass.includes(answer.status)) this.requireOk(answer, what);
      requireNoPage(answer, what);
      return await use(answer, () => void timer.refresh(), at);
    } catch (error) {
      this.signal?.throwIfAborted();
      throw controller.signal.aborted ? stalled : error;
    } finally {
      clearTimeout(timer);
      this.signal?.removeEventListener("abort", onAbort);
      await response?.body?.cancel().catch(() => undefined);
    }
  }

  /** Runs `attempt` until it succeeds; waits longer after each failure in a row. `attempt` reports by `progress()` that a try brought something. */
  async persist<T>(
    what: string,
    attempt: (progress: () => void) => Promise<T>,
    retries = this.options.retries,
  ): Promise<T> {
    const { backoffMs, onNotice } = this.options;
    let hasProgress = false;
    for (let failures = 0; ;) {
      try {
        return await attempt(() => {
          hasProgress = true;
          failures = 0;
        });
      } catch (error) {
        this.signal?.throwIfAborted();
        if (!(error instanceof Retry)) throw error;
        const wait = error.waitMs ?? Math.min(MAX_WAIT_MS, backoffMs * 2 ** failures);
        const times = `${++failures} times in a row; ${hasProgress ? "what came is kept, " : ""}try again later`;
        if (failures > retries) throw new HubNetworkError(`${what}: ${error.message}, ${times}`, { cause: error });
        if (wait > MAX_WAIT_MS)
          throw new HubNetworkError(`${what}: ${error.message}; try again in ${Math.ceil(wait / 60_000)} minutes`, {
            cause: error,
          });
        if (wait >= NOTICED_MS && failures === 1) onNotice?.(`${what}: ${error.message}; trying again`);
        await delay(wait, undefined, this.signal ? { signal: this.signal } : {});
      }
    }
  }

  /** The body of a small answer, of at most `limit` bytes. */
  bytes(
    url: string,
    { limit, retries, ...request }: RequestOptions & { limit: number; retries?: number },
  ): Promise<Uint8Array> {
    const { what } = request;
    const attempt = (): Promise<Uint8Array> =>
      this.request(url, request, async (response, alive) => {
        const chunks: Uint8Array[] = [];
        let bytes = 0;
        await eachChunk(response, async (chunk) => {
          alive();
          bytes += chunk.length;
          if (bytes > limit) throw new HubError(`${what}: the answer has more than ${limit} bytes`);
          chunks.push(chunk);
        });
        return new Uint8Array(Buffer.concat(chunks));
      });
    return this.persist(what, attempt, retries);
  }

  /** Follows redirects: the token goes to the hub's own server only, and never from https to http. A refused token is left out. */
  private async follow(
    url: string,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<{ response: Response; at: string }> {
    const home = new URL(this.options.settings.endpoint).origin;
    let at = new URL(url);
    for (let i = 0; i <= MAX_REDIRECTS; i++) {
      const hasToken = this.token !== undefined && at.origin === home;
      const response = await this.send(at, hasToken ? { ...headers, authorization: `Bearer ${this.token}` } : headers, signal); // prettier-ignore
      if (response.status === 401 && hasToken) {
        this.refusal = saidBy(response) || "HTTP 401";
        await response.body?.cancel();
        continue;
      }
      const location = response.headers.get("location");
      if (!REDIRECTS.includes(response.status) || location === null) {
        if (this.refusal !== null && response.ok) this.noticeRefusal();
        return { response, at: at.href };
      }
      await response.body?.cancel();
      at = redirected(at, location);
    }
    throw new HubError(`${url} redirects more than ${MAX_REDIRECTS} times`);
  }

  private noticeRefusal(): void {
    if (this.isRefusalNoticed) return;
    this.isRefusalNoticed = true;
    const { tokenFrom } = this.options.settings;
    this.options.onNotice?.(
      `the hub refuses the token of ${tokenFrom} (${this.refusal}) and answers without it; renew or remove the token`,
    );
  }

  private get token(): string | undefined {
    return this.refusal === null ? this.options.settings.token : undefined;
  }

  private async send(at: URL, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<Response> {
    // Node's own fetch has no proxies; a proxy needs the dispatcher of the same package.
    const { Agent, ProxyAgent, fetch } = await import("undici");
    const proxy = proxyFor(at, this.proxies);
    const dispatcher = this.dispatchers.get(proxy) ?? (proxy ? new ProxyAgent(proxy) : new Agent());
    this.dispatchers.set(proxy, dispatcher);
    const own = { "accept-encoding": "identity", "user-agent": "janus-webgpu", ...headers };
    try {
      const response = await fetch(at, { headers: own, redirect: "manual", signal, dispatcher });
      this.hasAnswered = true;
      return response;
    } catch (error) {
      if (signal.aborted) throw error;
      throw connectionError(error, at, { proxy, mayPass: this.hasAnswered });
    }
  }

  /** Throws what an HTTP status means. */
  private requireOk(response: Response, what: string): void {
    const { status } = response;
    if (response.ok) return;
    const said = saidBy(response);
    const because = `HTTP ${status}${said && `, "${said}"`}`;
    const code = response.headers.get("x-error-code") ?? "";
    if (code === "DisabledRepo")
      throw new HubAccessError(`${what}: the hub has disabled this repository (${because}); use another model`);
    if (code === "GatedRepo")
      throw new HubAccessError(
        `${what}: access must be asked for on its page at ${this.options.settings.endpoint} (${because}); ${this.tokenAdvice()}`,
      );
    if (code === "RevisionNotFound")
      throw new HubNotFoundError(`${what}: the repository has no such revision; name one of its branches, tags or commits`); // prettier-ignore
    if (code === "EntryNotFound") throw new HubNotFoundError(`${what}: the repository has no such file`);
    if (status === 404 || code === "RepoNotFound")
      throw new HubNotFoundError(`${what}: not found on the hub, or private. Check the name; ${this.tokenAdvice()}`);
    if (status === 401 || status === 403)
      throw new HubAccessError(`${what}: access is refused (${because}); ${this.tokenAdvice()}`);
    if (MAY_PASS.includes(status)) throw new Retry(`the server answers ${because}`, retryAfter(response));
    if (REDIRECTS.includes(status)) throw new HubError(`${what}: the server redirects (HTTP ${status}) to no address`);
    throw new HubError(`${what}: the server answers ${because}`);
  }

  private tokenAdvice(): string {
    const { endpoint, token, tokenFrom } = this.options.settings;
    // A server that says "not found" to a token may mean the model, not the token.
    if (this.refusal !== null && /credential|token|password|expire/i.test(this.refusal))
      return `the hub refuses the token of ${tokenFrom} (${this.refusal}): make a new one at ${endpoint}/settings/tokens`;
    if (token === undefined) return `set a token that may read it: there is none in ${tokenFrom}`;
    return `the token of ${tokenFrom} may not read it${this.refusal === null ? "" : ", or is not valid any more"}: use one that may`;
  }
}

/** The address that a redirect leads to. */
function redirected(at: URL, location: string): URL {
  if (!URL.canParse(location, at.href))
    throw new HubError(
      `${at.host} redirects to ${JSON.stringify(location.slice(0, 200))}, which is no address; check HF_ENDPOINT`,
    );
  const next = new URL(location, at);
  if (!/^https?:$/.test(next.protocol) || (at.protocol === "https:" && next.protocol !== "https:"))
    throw new HubError(`${at.href} redirects to ${next.protocol}//${next.host}, which is not safe`);
  if (next.username || next.password)
    throw new HubError(
      `${at.host} redirects to an address of ${next.host} with a name and password; check HF_ENDPOINT`,
    );
  return next;
}

/** Networks with a login page, and proxies, answer with HTML. The hub's files that are fetched are never HTML. */
function requireNoPage(response: Response, what: string): void {
  if (!/^\s*text\/html/i.test(response.headers.get("content-type") ?? "")) return;
  throw new HubError(
    `${what}: the server answers with a web page, not with data; log in to the network if it asks for that, and check HF_ENDPOINT`,
  );
}

/** The message in the headers of the hub's errors. */
const saidBy = (response: Response): string =>
  (response.headers.get("x-error-message") ?? "").replace(/[^\x20-\x7e]/g, "?").slice(0, 300);

const UNTRUSTED = /CERT|SELF_SIGNED|UNABLE_TO_(GET|VERIFY)|ERR_TLS|ERR_SSL/;

/** Converts the error of a failed connection; `Retry` if it may be temporary. */
function connectionError(
  error: unknown,
  at: URL,
  { proxy, mayPass }: { readonly proxy: string; readonly mayPass: boolean },
): Error {
  const cause = causeOf(error);
  const through = proxy ? ` through the proxy ${new URL(proxy).host}, unless NO_PROXY names the host` : "";
  const refused = /Proxy response \((\d+)\)/.exec(cause.message)?.[1];
  if (refused === "407")
    return new HubNetworkError(`${at.host}: the proxy ${new URL(proxy).host} wants a name and a password; write them into its address, http://name:password@host:port`); // prettier-ignore
  if (refused !== undefined) {
    const message = `the proxy ${new URL(proxy).host} answers HTTP ${refused}`;
    return MAY_PASS.includes(Number(refused))
      ? new Retry(message)
      : new HubNetworkError(`${at.host}: ${message}; check HTTPS_PROXY and NO_PROXY`);
  }
  if (cause.code === "ENOTFOUND" && !mayPass)
    return new HubNetworkError(`${at.host}: host not found${inBrackets(cause)}${through}; check the network and HF_ENDPOINT`); // prettier-ignore
  if (UNTRUSTED.test(cause.code))
    return new HubNetworkError(`${at.host}: its certificate is not trusted${inBrackets(cause)}; if a proxy signs certificates, set NODE_EXTRA_CA_CERTS to the file with its certificate`); // prettier-ignore
  return new Retry(`no answer from ${at.host}${through}${inBrackets(cause)}`);
}
