/** The log and the events of a run, written as it goes. */
import { messageOf } from "../run/errors.ts";
import { appendEvent, appendStep, cutLog } from "./log.ts";
import type { LogLine, RunEvent } from "./log.ts";

export interface JournalOptions {
  /** Folder of the run. */
  readonly run: string;
  readonly config: object;
  /** Is told what the person who started the run should know. */
  readonly onNotice: (message: string) => void;
}

export class Journal {
  /** Steps done. */
  protected steps: number;
  private readonly about: JournalOptions;

  /** @param steps that the run has done; 0 for a new one */
  constructor(options: JournalOptions, steps: number) {
    this.about = options;
    this.steps = steps;
  }

  /**
   * Goes on with the records of a run; lines of later steps, which an earlier process had done but not saved, are cut: they are done again.
   * @param from what the model is loaded from
   * @param onLine gets the lines that stay
   */
  async begin(from: string, onLine: (line: LogLine) => void = () => undefined): Promise<void> {
    const { run, config } = this.about;
    const cut = await cutLog(run, this.steps, onLine);
    const again = cut ? `; steps behind it that were not saved and are done again: ${cut}` : "";
    this.append(this.steps > 0 ? "resume" : "start", `from ${from}${again}`, config);
  }

  /** Writes the line of a step that is done. */
  async line(event: { readonly step: number }): Promise<void> {
    this.steps = event.step + 1;
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

  /** Notes why the run ended before its time. Never throws: the error that is on its way counts. */
  async failed(error: unknown): Promise<void> {
    try {
      this.append("error", messageOf(error));
    } catch {
      // the disk, most likely, and the error on its way says so
    }
  }

  private append(kind: RunEvent["kind"], text: string, config?: object): void {
    const event: RunEvent = { time: new Date().toISOString(), step: this.steps, kind, text, ...(config && { config }) };
    appendEvent(this.about.run, event);
  }
}
