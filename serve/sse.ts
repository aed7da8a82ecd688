/** Server-sent events from a list of events that one side pushes. */
import type { Context } from "hono";
import { apiErrorOf } from "./errors.ts";
import type { EventQueue } from "./events.ts";

export interface ServerEvent {
  /** Name of the event; null for none. */
  readonly event: string | null;
  readonly data: unknown;
}

const encoder = new TextEncoder();

const encode = ({ event, data }: ServerEvent): Uint8Array =>
  encoder.encode(`${event === null ? "" : `event: ${event}\n`}data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`); // prettier-ignore

/**
 * Answers with the events. The answer begins with the first one, so that an error before it has its status; a later one is an event. Throws
 * what the events throw before the first.
 * @param onError gets an error that the client can no longer see as a status
 */
export async function streamEvents(
  c: Context,
  queue: EventQueue<ServerEvent>,
  onError: (error: unknown) => void,
): Promise<Response> {
  // prettier-ignore
  const events = queue[Symbol.asyncIterator]();
  let next = await events.next();
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        if (next.done) return controller.close();
        controller.enqueue(encode(next.value));
        next = await events.next();
        if (next.done) controller.close();
      } catch (error) {
        onError(error);
        controller.enqueue(encode({ event: null, data: apiErrorOf(error).body }));
        controller.close();
      }
    },
  });
  c.header("Content-Type", "text/event-stream");
  c.header("Cache-Control", "no-cache");
  c.header("X-Accel-Buffering", "no"); // proxies must pass the events on at once
  return c.body(body);
}
