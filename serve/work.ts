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
  /** Calls `release` once the request is over. */
  hold(release: () => void): void;
  /** The answer is a stream, which ends with `ended`. */
  stream(queue: EventQueue<ServerEvent>, ended: Promise<void>): Promise<Response>;
}

/** Resolves once the answer has left, or nobody can read it any more. */
function whenClosed({ env: { incoming, outgoing } }: Context<Env>): Promise<void> {
  const { socket } = incoming;
  if (socket.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    const close = (): void => {
      outgoing.off("close", close);
      socket.off("close", close);
      resolve();
    };
    outgoing.once("close", close);
    // An answer that waits behind others of its connection has no part in the end of that connection.
    socket.once("close", close);
  });
}

/**
 * Runs a request for work. Its place is free again once the work has ended and the answer has left. Throws `ApiError` 429, 503 and 504.
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
  const closed = whenClosed(c).then(() =>
    controller.abort(new ApiError(CLIENT_CLOSED, "the client left", { code: "client_closed" })),
  );
  const releases = [leave, () => clearTimeout(timer)];
  let streamed: Promise<void> = Promise.resolve();
  const stream = async (queue: EventQueue<ServerEvent>, ended: Promise<void>): Promise<Response> => {
    const note = (error: unknown): void => noteError(c, error);
    const response = await streamEvents(c, queue, note);
    streamed = ended.catch(note);
    c.set("streamed", streamed);
    return response;
  };
  try {
    return await run({ signal: controller.signal, hold: (release) => releases.push(release), stream });
  } catch (error) {
    throw controller.signal.aborted ? controller.signal.reason : error; // what failed then failed for this reason
  } finally {
    void Promise.all([closed, streamed]).then(() => {
      for (const release of releases) release();
    });
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
