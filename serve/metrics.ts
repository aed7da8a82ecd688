/** What the server counts, as Prometheus reads it. */
import type { Registry as RegistryType } from "prom-client";

const LATENCY_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

/** What is read when Prometheus asks. */
export interface Levels {
  readonly waiting: number;
  readonly rows: number;
  readonly parked: number;
  readonly drawing: number;
  readonly isReady: boolean;
  readonly liveBytes: number;
  readonly reservedBytes: number;
}

export type Metrics = Awaited<ReturnType<typeof openMetrics>>;

/** @param levels reads the gauges */
export async function openMetrics(levels: () => Levels) {
  const { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } = (await import("prom-client")).default;
  const registry: RegistryType = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry, prefix: "janus_" });
  const gauge = (name: string, help: string, read: (now: Levels) => number): unknown =>
    new Gauge({ name: `janus_${name}`, help, registers, collect() { this.set(read(levels())); } }); // prettier-ignore
  gauge("ready", "1 while the model answers, 0 while the device is lost or the server stops", (now) => Number(now.isReady)); // prettier-ignore
  gauge("requests_waiting", "requests that wait for a row or for a batch of images", (now) => now.waiting);
  gauge("text_rows_active", "answers that are computed at once", (now) => now.rows);
  gauge("text_rows_parked", "answers that wait so that others get a turn", (now) => now.parked);
  gauge("images_active", "images that are drawn at once", (now) => now.drawing);
  gauge("device_live_bytes", "bytes of live tensors on the device", (now) => now.liveBytes);
  gauge("device_reserved_bytes", "bytes of all buffers on the device", (now) => now.reservedBytes);
  const histogram = <Labels extends string>(name: string, help: string, labelNames: readonly Labels[] = []) =>
    new Histogram({ name: `janus_${name}`, help, labelNames, registers, buckets: LATENCY_S });
  return {
    requests: new Counter({ name: "janus_requests_total", help: "answered requests", labelNames: ["route", "status"], registers }), // prettier-ignore
    tokens: new Counter({ name: "janus_tokens_total", help: "text tokens read and generated, codes of images", labelNames: ["kind"], registers }), // prettier-ignore
    images: new Counter({ name: "janus_images_total", help: "images drawn", registers }),
    losses: new Counter({ name: "janus_device_losses_total", help: "losses of the device", registers }),
    duration: histogram("request_seconds", "time from the request to the end of its answer", ["route"]),
    queued: histogram("queue_seconds", "time that a request waited before work on it began", ["kind"]),
    firstToken: histogram("time_to_first_token_seconds", "time from the request to its first token"),
    betweenTokens: histogram("time_between_tokens_seconds", "time of a step: between two tokens of every running answer"), // prettier-ignore
    contentType: registry.contentType,
    text: (): Promise<string> => registry.metrics(),
  };
}
