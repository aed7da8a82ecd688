/** The Train tab: a model of the demo's world from random weights, with its loss and samples; stops, and resumes after a reload. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { RgbImage } from "../../model/image/image.ts";
import { Pixels } from "./draw.tsx";
import type { FromTrainer, ToTrainer } from "./train_worker.ts";
import type { Progress } from "./train_world.ts";

const LENGTHS = {
  trial: { label: "Trial: a look at every part", steps: { tokenizer: 10, language: 20 } },
  short: { label: "Short: shows that it learns", steps: { tokenizer: 40, language: 40 } },
  medium: { label: "Medium: simple prompts", steps: { tokenizer: 200, language: 300 } },
  long: { label: "Long: the demo's default and more", steps: { tokenizer: 400, language: 1200 } },
} as const;

/** A loss curve, on a logarithmic scale; the table below says the numbers. */
function Curve({ losses, label }: { readonly losses: readonly number[]; readonly label: string }) {
  const [width, height] = [320, 120];
  if (losses.length < 2) return <p class="hint">{label}: no steps yet.</p>;
  const logs = losses.map((loss) => Math.log(Math.max(loss, 1e-6)));
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  const points = logs
    .map((log, i) => {
      const x = (i / (logs.length - 1)) * width;
      const y = height - 6 - ((log - low) / Math.max(high - low, 1e-9)) * (height - 12);
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    })
    .join(" ");
  const [first, last] = [losses[0]!, losses.at(-1)!];
  return (
    <figure>
      <svg
        viewBox={`0 0 ${width} ${height}`}
        role="img"
        aria-label={`${label} from ${first.toFixed(3)} to ${last.toFixed(3)}`}
      >
        <polyline points={points} fill="none" stroke="currentColor" stroke-width="1.5" />
      </svg>
      <figcaption>
        {label}: {first.toFixed(3)} → {last.toFixed(3)} after {losses.length} steps
      </figcaption>
    </figure>
  );
}

interface Samples {
  readonly step: number;
  readonly images: readonly { readonly prompt: string; readonly image: RgbImage }[];
}

export function Train() {
  const [length, setLength] = useState<keyof typeof LENGTHS>("short");
  const [progress, setProgress] = useState<Progress | null>(null);
  const [samples, setSamples] = useState<readonly Samples[]>([]);
  const [state, setState] = useState<"idle" | "running" | "stopping" | "complete">("idle");
  const [error, setError] = useState("");
  const worker = useRef<Worker | null>(null);

  const send = (message: ToTrainer): void => {
    if (!worker.current) {
      worker.current = new Worker(new URL("./train_worker.ts", import.meta.url), { type: "module" });
      worker.current.addEventListener("message", ({ data }: MessageEvent<FromTrainer>) => {
        if (data.type === "saved" || data.type === "progress") setProgress(data.progress);
        else if (data.type === "samples") setSamples((before) => [data, ...before].slice(0, 12));
        else if (data.type === "ended") setState(data.isComplete ? "complete" : "idle");
        else {
          setError(data.message);
          setState("idle");
        }
      });
    }
    worker.current.postMessage(message);
  };

  // What was saved is looked up without starting a Worker that nobody may need.
  useEffect(() => {
    void navigator.storage
      ?.getDirectory()
      .then((root) => root.getDirectoryHandle("janus-webgpu-training"))
      .then(() => send({ type: "look" }))
      .catch(() => undefined);
    return () => worker.current?.terminate();
  }, []);

  const done = progress ? progress.done.tokenizer + progress.done.language : 0;
  const total = progress ? progress.steps.tokenizer + progress.steps.language : 0;
  const isBusy = state === "running" || state === "stopping"; // also while the last step is being saved
  const isComplete = total > 0 && done === total && !isBusy;

  return (
    <div class="train">
      <div class="card">
        <h2>Train a small Janus-Pro here</h2>
        <p>
          The world has coloured shapes, captions and questions. The model has 2.2 million random weights. First it
          learns to write an image as 64 codes, then to draw and to answer. All of it runs in this browser.
        </p>
        {done === 0 && (
          <label>
            Length
            <select value={length} onChange={(event) => setLength(event.currentTarget.value as keyof typeof LENGTHS)}>
              {Object.entries(LENGTHS).map(([key, { label }]) => (
                <option key={key} value={key}>
                  {label}
                </option>
              ))}
            </select>
          </label>
        )}
        <div class="row">
          {isBusy ? (
            <button
              type="button"
              disabled={state === "stopping"}
              onClick={() => {
                setState("stopping");
                send({ type: "stop" });
              }}
            >
              {state === "stopping" ? "Stopping after this step …" : "Stop"}
            </button>
          ) : (
            !isComplete && (
              <button
                type="button"
                class="primary"
                onClick={() => {
                  setError("");
                  setState("running");
                  send({ type: "start", steps: LENGTHS[length].steps });
                }}
              >
                {done > 0 ? "Resume" : "Start"}
              </button>
            )
          )}
          {done > 0 && !isBusy && (
            <button
              type="button"
              onClick={() => {
                setSamples([]);
                setState("idle");
                send({ type: "forget" });
              }}
            >
              Start over
            </button>
          )}
          {total > 0 && <progress value={done} max={total} aria-label="Steps" />}
        </div>
        <p role="status">
          {total > 0 && `${done} of ${total} steps${isComplete ? ": complete" : ""}`}
          {total > 0 && state === "idle" && !isComplete && ", saved in this browser"}
        </p>
        {error && (
          <p class="error" role="alert">
            {error}
          </p>
        )}
      </div>
      {progress && (
        <div class="curves">
          <Curve losses={progress.tokenizer} label="Image tokenizer, reconstruction loss" />
          <Curve losses={progress.language} label="Language model, loss" />
        </div>
      )}
      {samples.map(({ step, images }) => (
        <div key={step} class="sample-row">
          <h3>After {step} steps</h3>
          <div class="gallery">
            {images.map(({ prompt, image }) => (
              <figure key={prompt}>
                <Pixels image={image} side={image.width} alt={`${prompt} after ${step} steps`} />
                <figcaption>{prompt}</figcaption>
              </figure>
            ))}
          </div>
        </div>
      ))}
    </div>
  );
}
