/** Draw images from a prompt, side by side, with a preview that fills row by row; the gallery of what was drawn. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { RgbImage } from "../../model/image/image.ts";
import type { Backend, DrawSettings, Drawn } from "./backend.ts";
import { forget, items, keep, newId } from "./history.ts";
import type { Picture } from "./history.ts";
import { PictureDialog } from "./picture_dialog.tsx";
import { paint } from "./pixels.ts";

/** An image, or its rows so far, in a square. */
export function Pixels({
  image,
  side,
  alt,
}: {
  readonly image: RgbImage | null;
  readonly side: number;
  readonly alt: string;
}) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    if (canvas.current) paint(canvas.current, image, side);
  }, [image, side]);
  return <canvas ref={canvas} class={side < 128 ? "pixels coarse" : "pixels"} role="img" aria-label={alt} />;
}

interface Slot {
  readonly image: RgbImage | null;
  readonly drawn: Drawn | null;
}

const EXAMPLES = ["two red squares", "a blue ring left of a green cross", "three yellow circles", "a pink diamond"];

const newSeed = (): number => Math.floor(Math.random() * 1e6);

export function Draw({ backend, onAsk }: { readonly backend: Backend | null; readonly onAsk: (image: Blob) => void }) {
  const [prompt, setPrompt] = useState(EXAMPLES[0]!);
  const [n, setN] = useState(2);
  const [seed, setSeed] = useState(1);
  const [guidance, setGuidance] = useState(1.5);
  const [temperature, setTemperature] = useState(0.6);
  const [slots, setSlots] = useState<readonly Slot[]>([]);
  const [share, setShare] = useState<number | null>(null);
  const [error, setError] = useState("");
  const [shown, setShown] = useState<Drawn | null>(null);
  const [gallery, setGallery] = useState<Picture[]>([]);
  const controller = useRef<AbortController | null>(null);

  const list = (): void =>
    void items().then((all) => setGallery(all.filter((item): item is Picture => item.kind === "picture")));
  useEffect(list, []);
  useEffect(() => {
    if (!backend) return;
    setGuidance(backend.defaults.guidance);
    setTemperature(backend.defaults.temperature);
  }, [backend]);

  const side = slots.find(({ drawn }) => drawn)?.drawn?.image.width ?? backend?.side ?? 32;

  async function draw(from: { readonly prompt: string } & DrawSettings): Promise<void> {
    if (!backend || share !== null) return;
    setError("");
    setShare(0);
    const { signal } = (controller.current = new AbortController());
    const { prompt: asked, ...settings } = from;
    let all: readonly Slot[] = Array.from({ length: from.n }, () => ({ image: null, drawn: null }));
    setSlots(all);
    try {
      for await (const event of backend.draw(asked, settings, signal)) {
        if (event.type === "partial") {
          setShare(event.share);
          all = all.map((slot, i) => (slot.drawn ? slot : { ...slot, image: event.images[i] ?? slot.image }));
        } else {
          all = all.map((slot, i) => (i === event.index ? { image: event.drawn.image, drawn: event.drawn } : slot));
          await keep({ kind: "picture", id: newId(), at: Date.now(), drawn: event.drawn }).catch(() => undefined);
        }
        setSlots(all);
      }
    } catch (problem) {
      if (!signal.aborted) setError(problem instanceof Error ? problem.message : String(problem));
    }
    setShare(null);
    setSlots(all.filter(({ drawn }) => drawn)); // those that were stopped have no tokens to show
    list();
  }

  const number = (
    value: number,
    set: (value: number) => void,
    step: number,
    min: number,
    max: number,
    label: string,
  ) => (
    <label>
      {label}
      <input
        type="number"
        value={value}
        step={step}
        min={min}
        max={max}
        onInput={(event) => {
          const next = event.currentTarget.valueAsNumber;
          if (Number.isFinite(next)) set(next);
        }}
      />
    </label>
  );

  return (
    <div class="draw">
      <form
        class="card"
        onSubmit={(event) => {
          event.preventDefault();
          void draw({ prompt, seed, n, guidance, temperature });
        }}
      >
        <label>
          Prompt
          <input value={prompt} onInput={(event) => setPrompt(event.currentTarget.value)} required />
        </label>
        <div class="row examples">
          {EXAMPLES.map((example) => (
            <button key={example} type="button" class="chip" onClick={() => setPrompt(example)}>
              {example}
            </button>
          ))}
        </div>
        <div class="settings">
          {number(n, setN, 1, 1, 8, "Images")}
          {number(seed, setSeed, 1, 0, 2 ** 32 - 1, "Seed")}
          {number(guidance, setGuidance, 0.1, 0, 20, "Guidance")}
          {number(temperature, setTemperature, 0.1, 0.1, 3, "Temperature")}
        </div>
        <div class="row">
          {share === null ? (
            <button type="submit" class="primary" disabled={!backend}>
              Draw
            </button>
          ) : (
            <button type="button" onClick={() => controller.current?.abort()}>
              Stop
            </button>
          )}
          <button type="button" disabled={share !== null} onClick={() => setSeed(newSeed())}>
            New seed
          </button>
          {share !== null && <progress value={share} aria-label="Share of the tokens that are drawn" />}
        </div>
        {error && (
          <p class="error" role="alert">
            {error}
          </p>
        )}
      </form>
      <div class="grid" aria-live="polite">
        {slots.map((slot, i) => (
          <button
            key={i}
            type="button"
            class="picture"
            disabled={!slot.drawn}
            aria-label={slot.drawn ? `Image ${i + 1}: ${slot.drawn.prompt}, details` : `Image ${i + 1} is being drawn`}
            onClick={() => setShown(slot.drawn)}
          >
            <Pixels image={slot.image} side={side} alt={slot.drawn?.prompt ?? "The rows so far"} />
          </button>
        ))}
      </div>
      {gallery.length > 0 && (
        <>
          <h2>Drawn before</h2>
          <div class="gallery">
            {gallery.slice(0, 48).map(({ id, drawn }) => (
              <button
                key={id}
                type="button"
                class="picture small"
                aria-label={`${drawn.prompt}, seed ${drawn.seed}, details`}
                onClick={() => setShown(drawn)}
                onKeyDown={(event) => {
                  if (event.key === "Delete") void forget(id).then(list);
                }}
              >
                <Pixels image={drawn.image} side={drawn.image.width} alt={drawn.prompt} />
              </button>
            ))}
          </div>
        </>
      )}
      {shown && (
        <PictureDialog
          drawn={shown}
          backend={backend}
          onClose={() => setShown(null)}
          onAsk={onAsk}
          onVary={({ prompt: same, guidance: strength, temperature: warmth }) => {
            const varied = { seed: newSeed(), guidance: strength, temperature: warmth, n: Math.max(n, 2) };
            setShown(null);
            setPrompt(same);
            setSeed(varied.seed);
            setGuidance(strength);
            setTemperature(warmth);
            void draw({ prompt: same, ...varied });
          }}
        />
      )}
    </div>
  );
}
