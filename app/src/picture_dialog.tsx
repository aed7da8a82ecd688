/** A picture with all that it takes to draw it again: tokens, seed, settings; vary, check again, ask about it, save. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { Backend, Drawn } from "./backend.ts";
import { Pixels } from "./draw.tsx";
import { download, pngOf } from "./pixels.ts";

interface Props {
  readonly drawn: Drawn;
  readonly backend: Backend | null;
  readonly onClose: () => void;
  readonly onAsk: (image: Blob) => void;
  readonly onVary: (drawn: Drawn) => void;
}

/** Draws it again and says whether every token is the same. */
async function checked(backend: Backend, drawn: Drawn): Promise<string> {
  const { prompt, seed, guidance, temperature, tokenIds } = drawn;
  const settings = { n: 1, seed, guidance, temperature };
  for await (const event of backend.draw(prompt, settings, new AbortController().signal)) {
    if (event.type !== "done") continue;
    const again = event.drawn.tokenIds;
    if (!tokenIds || !again) return "The server does not tell the tokens, so they cannot be compared.";
    const at = tokenIds.findIndex((id, i) => id !== again[i]);
    if (at < 0) return `All ${tokenIds.length} tokens are the same.`;
    const other = event.drawn.model === drawn.model ? "" : " It was drawn by another model.";
    return `Token ${at} differs: ${again[at]} instead of ${tokenIds[at]}.${other}`;
  }
  return "It was not drawn.";
}

export function PictureDialog({ drawn, backend, onClose, onAsk, onVary }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [verdict, setVerdict] = useState("");
  const [isChecking, setChecking] = useState(false);
  useEffect(() => dialog.current?.showModal(), []);
  const { image, prompt, seed, guidance, temperature, model, tokenIds } = drawn;

  const check = (): void => {
    if (!backend) return;
    setChecking(true);
    setVerdict("Drawing it again …");
    checked(backend, drawn)
      .then(setVerdict, (error: unknown) => setVerdict(error instanceof Error ? error.message : String(error)))
      .finally(() => setChecking(false));
  };

  return (
    <dialog ref={dialog} onClose={onClose} aria-label={`Details of the image: ${prompt}`}>
      <div class="dialog">
        <Pixels image={image} side={image.width} alt={prompt} />
        <div>
          <h2>{prompt}</h2>
          <dl>
            <dt>Seed</dt>
            <dd>{seed}</dd>
            <dt>Guidance</dt>
            <dd>{guidance}</dd>
            <dt>Temperature</dt>
            <dd>{temperature}</dd>
            <dt>Model</dt>
            <dd>{model.slice(0, 16)}</dd>
          </dl>
          {tokenIds && (
            <details>
              <summary>{tokenIds.length} tokens</summary>
              <code class="tokens">{tokenIds.join(" ")}</code>
            </details>
          )}
          <div class="row">
            <button type="button" disabled={!backend} onClick={() => onVary(drawn)}>
              Vary
            </button>
            <button type="button" disabled={!backend || isChecking} onClick={check}>
              Check again
            </button>
            <button
              type="button"
              onClick={() => {
                void pngOf(image).then((png) => {
                  dialog.current?.close();
                  onAsk(png);
                });
              }}
            >
              Ask about it
            </button>
            <button
              type="button"
              onClick={() =>
                void pngOf(image).then((png) => download(`${prompt.replaceAll(/\W+/g, "-")}-${seed}.png`, png))
              }
            >
              Save PNG
            </button>
            <button type="button" class="primary" onClick={() => dialog.current?.close()}>
              Close
            </button>
          </div>
          <p role="status">{verdict}</p>
        </div>
      </div>
    </dialog>
  );
}
