/** The Worker of the Train tab. */
import type { RgbImage } from "../../model/image/image.ts";
import { World, forgetTraining, savedProgress } from "./train_world.ts";
import type { Progress } from "./train_world.ts";

export type ToTrainer =
  | { readonly type: "look" }
  | { readonly type: "start"; readonly steps: Progress["steps"] }
  | { readonly type: "stop" }
  | { readonly type: "forget" };

export type FromTrainer =
  | { readonly type: "saved"; readonly progress: Progress | null }
  | { readonly type: "progress"; readonly progress: Progress }
  | { readonly type: "samples"; readonly step: number; readonly images: readonly { prompt: string; image: RgbImage }[] }
  | { readonly type: "ended"; readonly isComplete: boolean }
  | { readonly type: "error"; readonly message: string };

const post = (message: FromTrainer): void => globalThis.postMessage(message);
let isStopped = false;

async function train(steps: Progress["steps"]): Promise<void> {
  isStopped = false;
  const world = await World.open(steps, {
    onProgress: (progress) => post({ type: "progress", progress }),
    onSamples: (step, images) => post({ type: "samples", step, images: [...images] }),
  });
  try {
    post({ type: "ended", isComplete: await world.run(() => isStopped) });
  } finally {
    world.dispose();
  }
}

async function answer(message: ToTrainer): Promise<void> {
  if (message.type === "stop") isStopped = true;
  else if (message.type === "start") await train(message.steps);
  else {
    if (message.type === "forget") await forgetTraining();
    post({ type: "saved", progress: await savedProgress() });
  }
}

addEventListener("message", ({ data }: MessageEvent<ToTrainer>) => {
  answer(data).catch((error: unknown) =>
    post({ type: "error", message: error instanceof Error ? error.message : String(error) }),
  );
});
