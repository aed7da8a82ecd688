/** A request for work: its place at the gate, its time limit, its end if the client leaves. */
import type { Context } from "hono";
import type { Env, Parts } from "./app.ts";
import { ApiError } from "./errors.ts";
import type { EventQueue } from "./events.ts";
import { streamEvents } from "./sse.ts";
import type { ServerEvent } from "./sse.ts";
import type { ServerSettings } from "./settings.ts";

/** The client closed the connection: nobody reads the answer. */
const CLIENT_CLOSED = 499;

export interface Work {
  /** Aborted at the time limit, and when the client leaves. */
  readonly signal: AbortSignal;
  /** The answer is a stream, which ends with `ended`. */
  stream(queue: EventQueue<ServerEvent>, ended: Promise<void>): Promise<Response>;
}

/**
 * Runs a request for work. Its place is free again once the answer, streamed or not, has ended. Throws `ApiError` 429, 503 and 504.
 */
export async function runWork(
  c: Context<Env>,
  parts: Parts,
  run: (work: Work) => Promise<Response>,
): Promise<Response> {
  const leave = parts.gate.enter();
  const controller = new AbortController();
  const { timeoutS } = parts.settings;
  const timer = setTimeout(
    () => controller.abort(new ApiError(504, `the request took more than ${timeoutS} seconds. Ask for fewer tokens.`, { code: "timeout" })), // prettier-ignore
    1000 * timeoutS,
  );
  const left = (): void => controller.abort(new ApiError(CLIENT_CLOSED, "the client left", { code: "client_closed" }));
  c.env.outgoing.once("close", left);
  const end = (): void => {
    clearTimeout(timer);
    c.env.outgoing.off("close", left);
    leave();
  };
  let isStream = false;
  const stream = async (queue: EventQueue<ServerEvent>, ended: Promise<void>): Promise<Response> => {
    const note = (error: unknown): void => noteError(c, error);
    const response = await streamEvents(c, queue, note);
    isStream = true;
    c.set("streamed", ended.catch(note).finally(end));
    return response;
  };
  try {
    return await run({ signal: controller.signal, stream });
  } catch (error) {
    throw controller.signal.aborted ? controller.signal.reason : error; // what failed then failed for this reason
  } finally {
    if (!isStream) end();
  }
}

function noteError(c: Context<Env>, error: unknown): void {
  const isApi = error instanceof ApiError;
  c.set("fields", { ...c.var.fields, error: isApi ? (error.code ?? error.message) : "internal_error", ...(isApi && { status: error.status }) }); // prettier-ignore
}

/** Throws `ApiError` 404 for a model that is not served. */
export function checkModel(name: string, settings: Pick<ServerSettings, "name">): void {
  if (name !== settings.name)
    throw new ApiError(404, `the model must be ${JSON.stringify(settings.name)}; got another one. GET /v1/models lists it.`, { param: "model", code: "model_not_found" }); // prettier-ignore
}
