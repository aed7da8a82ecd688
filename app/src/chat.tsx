/** Chat with images: dropped, pasted, chosen, or from the camera; answers as they come, stop, regenerate, edit. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { Backend, Turn } from "./backend.ts";
import { Camera } from "./camera.tsx";
import { download } from "./pixels.ts";
import { exported, forget, items, keep, newId } from "./history.ts";
import type { Chat as Kept } from "./history.ts";

interface Props {
  readonly backend: Backend | null;
  /** An image from another tab, to be asked about. */
  readonly given: Blob | null;
  readonly onTaken: () => void;
}

const isImage = (file: Blob): boolean => file.type.startsWith("image/");

/** An image of a file, with an address that is freed with it. */
function Image({ blob, alt }: { readonly blob: Blob; readonly alt: string }) {
  const [url, setUrl] = useState("");
  useEffect(() => {
    const made = URL.createObjectURL(blob);
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [blob]);
  return url ? <img src={url} alt={alt} class="attached" /> : null;
}

export function Chat({ backend, given, onTaken }: Props) {
  const [id, setId] = useState(newId);
  const [turns, setTurns] = useState<readonly Turn[]>([]);
  const [text, setText] = useState("");
  const [images, setImages] = useState<readonly Blob[]>([]);
  const [answer, setAnswer] = useState<string | null>(null);
  const [error, setError] = useState("");
  const [temperature, setTemperature] = useState(0);
  const [kept, setKept] = useState<Kept[]>([]);
  const [hasCamera, setCamera] = useState(false);
  const controller = useRef<AbortController | null>(null);
  const input = useRef<HTMLTextAreaElement>(null);

  const list = (): void =>
    void items().then((all) => setKept(all.filter((item): item is Kept => item.kind === "chat")));
  useEffect(list, []);
  useEffect(() => {
    if (!given) return;
    setImages((before) => [...before, given]);
    onTaken();
    input.current?.focus();
  }, [given]);

  async function ask(asked: readonly Turn[]): Promise<void> {
    if (!backend) return;
    setTurns(asked);
    setAnswer("");
    setError("");
    const { signal } = (controller.current = new AbortController());
    let said = "";
    try {
      const settings = { temperature, seed: Math.floor(Math.random() * 2 ** 31) };
      for await (const piece of backend.ask(asked, settings, signal)) setAnswer((said += piece));
    } catch (problem) {
      if (!signal.aborted) setError(problem instanceof Error ? problem.message : String(problem));
    }
    const all: readonly Turn[] = said ? [...asked, { role: "assistant", text: said.trim(), images: [] }] : asked;
    setTurns(all);
    setAnswer(null);
    await keep({ kind: "chat", id, at: Date.now(), turns: all }).catch(() => undefined);
    list();
  }

  const send = (): void => {
    if (!backend || answer !== null || (!text.trim() && images.length === 0)) return;
    const turn: Turn = { role: "user", text: text.trim() || "What is in this image?", images };
    setText("");
    setImages([]);
    void ask([...turns, turn]);
  };

  const edit = (at: number): void => {
    const turn = turns[at]!;
    setText(turn.text);
    setImages(turn.images);
    setTurns(turns.slice(0, at));
    input.current?.focus();
  };

  const add = (files: Iterable<File>): void => setImages((before) => [...before, ...[...files].filter(isImage)]);

  const fresh = (): void => {
    controller.current?.abort();
    setId(newId());
    setTurns([]);
    setAnswer(null);
    setError("");
  };

  return (
    <div
      class="chat"
      onDrop={(event) => {
        event.preventDefault();
        add(event.dataTransfer?.files ?? []);
      }}
      onPaste={(event) => add(event.clipboardData?.files ?? [])}
    >
      <div class="toolbar">
        <button type="button" onClick={fresh}>
          New chat
        </button>
        <label class="inline">
          Temperature {temperature.toFixed(1)}
          <input
            type="range"
            min="0"
            max="1.5"
            step="0.1"
            value={temperature}
            onInput={(event) => setTemperature(Number(event.currentTarget.value))}
          />
        </label>
        <details>
          <summary>History ({kept.length})</summary>
          <ul class="history">
            {kept.map((chat) => (
              <li key={chat.id}>
                <button
                  type="button"
                  class="quiet"
                  onClick={() => {
                    fresh();
                    setId(chat.id);
                    setTurns(chat.turns);
                  }}
                >
                  {chat.turns[0]?.text.slice(0, 60) ?? "empty"}
                </button>
                <button
                  type="button"
                  class="quiet"
                  aria-label={`Delete the chat "${chat.turns[0]?.text.slice(0, 30) ?? ""}"`}
                  onClick={() => void forget(chat.id).then(list)}
                >
                  ✕
                </button>
              </li>
            ))}
          </ul>
          <button type="button" onClick={() => void exported().then((json) => download("janus-history.json", json))}>
            Export everything as JSON
          </button>
        </details>
      </div>
      <ol class="turns" aria-live="polite" aria-label="Conversation">
        {turns.length === 0 && answer === null && (
          <li class="hint">
            Ask anything, or drop, paste or choose an image and ask about it. An image from the Draw tab comes here with
            “Ask about it”.
          </li>
        )}
        {turns.map((turn, at) => (
          <li key={at} class={turn.role}>
            {turn.images.map((image, i) => (
              <Image key={i} blob={image} alt={`Image ${i + 1} of this message`} />
            ))}
            <p>{turn.text}</p>
            {answer === null && (
              <div class="actions">
                {turn.role === "user" ? (
                  <button type="button" class="quiet" onClick={() => edit(at)}>
                    Edit
                  </button>
                ) : (
                  at === turns.length - 1 && (
                    <button type="button" class="quiet" onClick={() => void ask(turns.slice(0, at))}>
                      Regenerate
                    </button>
                  )
                )}
              </div>
            )}
          </li>
        ))}
        {answer !== null && (
          <li class="assistant">
            <p>
              {answer}
              <span class="cursor" aria-hidden="true" />
            </p>
          </li>
        )}
        {error && (
          <li class="error" role="alert">
            {error}
          </li>
        )}
      </ol>
      <form
        class="composer card"
        onSubmit={(event) => {
          event.preventDefault();
          send();
        }}
      >
        {images.length > 0 && (
          <div class="row">
            {images.map((image, i) => (
              <button
                key={i}
                type="button"
                class="thumb"
                aria-label={`Remove image ${i + 1}`}
                onClick={() => setImages(images.filter((_, k) => k !== i))}
              >
                <Image blob={image} alt={`Image ${i + 1} to send`} />
              </button>
            ))}
          </div>
        )}
        <label class="visually-hidden" for="question">
          Message
        </label>
        <textarea
          id="question"
          ref={input}
          rows={2}
          placeholder="Message"
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            send();
          }}
        />
        <div class="row">
          <label class="button">
            Add image
            <input
              type="file"
              accept="image/*"
              multiple
              class="hidden"
              onChange={(event) => {
                add(event.currentTarget.files ?? []);
                event.currentTarget.value = "";
              }}
            />
          </label>
          <button type="button" onClick={() => setCamera(true)}>
            Camera
          </button>
          <span class="spring" />
          {answer !== null ? (
            <button type="button" onClick={() => controller.current?.abort()}>
              Stop
            </button>
          ) : (
            <button type="submit" class="primary" disabled={!backend}>
              Send
            </button>
          )}
        </div>
      </form>
      {hasCamera && (
        <Camera onClose={() => setCamera(false)} onPhoto={(photo) => setImages((before) => [...before, photo])} />
      )}
    </div>
  );
}
