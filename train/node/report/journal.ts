/** Writes the log, the events and the page of a run while it trains. */

import { cutSamples } from "./samples.ts";
import { appendEvent, appendStep, cutLog } from "./log.ts";
import type { LogLine, RunEvent } from "./log.ts";
import { RunCurves, runReport } from "./run_report.ts";
import { messageOf } from "../../../engine/errors.ts";

/** Seconds after which the browser loads the page of a running run again. */
const REFRESH = 30;

export interface JournalOptions {
  /** Folder of the run. */
  readonly run: string;
  readonly config: { readonly report: { readonly every: number } };
  /** Called with messages for the person who started the run. */
  readonly onNotice: (message: string) => void;
}

/** State of a run when its report may be due. */
export interface Standing {
  /** At its end the report is always due. */
  readonly isEnd: boolean;
  readonly signal?: AbortSignal | undefined;
}

/** Asks whether something is due after the last step. */
export interface Due extends Standing {
  /** True if work is due that comes every `every` steps (0: never) and at the end of the run. */
  readonly at: (every: number) => boolean;
}

export class Journal {
  /** Steps done. */
  private steps: number;
  private readonly about: JournalOptions;
  private readonly curves = new RunCurves();
  private hasBegun = false;

  /** @param steps that the run has done; 0 for a new one */
  constructor(options: JournalOptions, steps: number) {
    this.about = options;
    this.steps = steps;
  }

  /**
   * Continues the records of a run; lines and samples of later steps, which an earlier process did but did not save, are cut: they are done again.
   * @param from what the model is loaded from
   */
  async begin(from: string): Promise<void> {
    const { run, config } = this.about;
    const cut = await cutLog(run, this.steps, (line) => this.curves.add(line));
    const again = cut ? `; steps behind it that were not saved and are done again: ${cut}` : "";
    this.append(this.steps > 0 ? "resume" : "start", `from ${from}${again}`, config);
    if (this.steps > 0) this.curves.mark(this.steps, "resumed");
    this.hasBegun = true;
    await cutSamples(run, this.steps).catch((error: unknown) =>
      this.notice(`samples of later steps stay: ${messageOf(error)}`),
    );
  }

  /** Writes the line of a step that is done. */
  async line(event: LogLine): Promise<void> {
    this.steps = event.step + 1;
    this.curves.add(event);
    await appendStep(this.about.run, event);
  }

  event(kind: RunEvent["kind"], text: string): void {
    this.append(kind, text);
  }

  /** Says something to whoever started the run, and keeps it. */
  notice(message: string, kind: RunEvent["kind"] = "notice"): void {
    this.append(kind, message);
    this.about.onNotice(message);
  }

  /**
   * Makes images, then writes the page. Errors are reported but do not end the run.
   * @param makers each is called, even if others fail
   */
  async write(makers: readonly (() => Promise<void>)[], { isEnd, signal }: Standing): Promise<void> {
    for (const make of makers) {
      try {
        await make();
      } catch (error) {
        if (!signal?.aborted || error !== signal.reason) this.passOver(`no images for the report: ${messageOf(error)}`);
      }
    }
    try {
      await this.page(isEnd);
    } catch (error) {
      this.passOver(`the report could not be written: ${messageOf(error)}`);
    }
  }

  /** Logs an event that does not end the run, if the disk, which may be its cause, has room; reports it in any case. */
  private passOver(message: string): void {
    try {
      this.append("notice", message);
    } catch {
      // said below
    }
    this.about.onNotice(message);
  }

  /** Records why the run ended early, also on the page. Never throws: the original error is more important. */
  async failed(error: unknown): Promise<void> {
    try {
      this.append("error", messageOf(error));
      if (this.hasBegun && this.about.config.report.every > 0) await this.page(true);
    } catch {
      // probably the disk, which the original error reports
    }
  }

  private async page(isEnd: boolean): Promise<void> {
    await runReport(this.about.run, { curves: this.curves, ...(!isEnd && { refresh: REFRESH }) });
  }

  private append(kind: RunEvent["kind"], text: string, config?: object): void {
    const event: RunEvent = { time: new Date().toISOString(), step: this.steps, kind, text, ...(config && { config }) };
    appendEvent(this.about.run, event);
  }
}
