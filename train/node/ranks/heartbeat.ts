/**
 * Finds processes that have stopped without ending: each tells the next one, in a ring, every few seconds that its event loop turns and its GPU
 * answers. Waiting for messages has no limit of its own, because rank 0 may index data for hours while the others wait.
 */

/** Messages between neighbours in the ring. */
export interface Beats {
  /** Tells the next process that this one runs, unless the last beat has not left yet. */
  send(): void;
  /** Whether the process before has told so since the last call. */
  heard(): boolean;
}

export interface HeartbeatOptions {
  /** How long a process may be silent, ms. */
  readonly timeoutMs: number;
  /** Called once, when the process before this one has been silent for so long. */
  readonly onSilence: () => void;
}

/** Beats in the time that a process may be silent, and the most time between two. */
const BEATS = 20;
const MAX_PERIOD = 5000; // ms

export class Heartbeat {
  private readonly beats: Beats;
  private readonly options: HeartbeatOptions;
  private readonly period: number;
  private timer: ReturnType<typeof setInterval> | undefined;
  /** Counted in beats of this process: the time for which it was itself suspended is not the other's silence. */
  private silentMs = 0;
  private probe: (() => Promise<unknown>) | null = null;
  private isProbing = false;

  constructor(beats: Beats, options: HeartbeatOptions) {
    this.beats = beats;
    this.options = options;
    this.period = Math.min(MAX_PERIOD, options.timeoutMs / BEATS);
  }

  start(): void {
    this.timer = setInterval(() => this.tick(), this.period);
    this.timer.unref();
  }

  stop(): void {
    clearInterval(this.timer);
  }

  /** No beat is sent while `probe`, e.g. of the GPU, has not resolved; null: no probe. */
  watch(probe: (() => Promise<unknown>) | null): void {
    this.probe = probe;
  }

  /** What happens once in a period. */
  tick(): void {
    if (!this.isProbing) {
      this.beats.send();
      void this.startProbe();
    }
    this.silentMs = this.beats.heard() ? 0 : this.silentMs + this.period;
    if (this.silentMs < this.options.timeoutMs) return;
    this.stop();
    this.options.onSilence();
  }

  private async startProbe(): Promise<void> {
    if (!this.probe) return;
    this.isProbing = true;
    try {
      await this.probe();
    } catch {
      // A device that is lost is reported by what uses it.
    }
    this.isProbing = false;
  }
}
