/** The bar that says which model is loaded, and loads another: `shapes`, a model of the hub, dropped files, or a server's. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { RefObject } from "preact";
import { createJanusWorker } from "../../model/janus/web/worker_client.ts";
import type { JanusWorker, WorkerJanus } from "../../model/janus/web/worker_client.ts";
import { modelStorage } from "../../model/web/store.ts";
import type { StoredModel } from "../../model/web/store.ts";
import { BrowserBackend, ServerBackend } from "./backend.ts";
import type { Backend } from "./backend.ts";

interface Props {
  readonly backend: Backend | null;
  readonly onBackend: (backend: Backend | null) => void;
  readonly model: RefObject<WorkerJanus | null>;
}

type State =
  | { readonly kind: "idle" }
  | { readonly kind: "loading"; readonly text: string; readonly share: number | null }
  | { readonly kind: "error"; readonly text: string }
  | { readonly kind: "lost"; readonly text: string };

/** Where this tab keeps the key of the server. */
const KEY = "janus-api-key";
const SHAPES = { guidance: 1.5, temperature: 0.6 };
const JANUS = { guidance: 5, temperature: 1 };
const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;

export function ModelBar({ backend, onBackend, model }: Props) {
  const [state, setState] = useState<State>({ kind: "idle" });
  const [isOpen, setOpen] = useState(false);
  const [servers, setServers] = useState<ServerBackend[] | "key">([]);
  const [key, setKey] = useState("");
  const [stored, setStored] = useState<StoredModel[]>([]);
  const [name, setName] = useState("deepseek-ai/Janus-Pro-1B");
  const [quantize, setQuantize] = useState("int4");
  const [isOver, setOver] = useState(false);
  const worker = useRef<JanusWorker | null>(null);
  const controller = useRef<AbortController | null>(null);
  /** The label and the defaults of the model that was loaded last, for recovery. */
  const last = useRef<{ readonly label: string; readonly defaults: Backend["defaults"] }>({ label: "shapes", defaults: SHAPES }); // prettier-ignore

  const listStored = (): void => {
    modelStorage.list().then(setStored, () => setStored([]));
  };

  async function load(
    label: string,
    defaults: Backend["defaults"],
    start: (w: JanusWorker, options: Options) => Promise<WorkerJanus>,
  ) {
    last.current = { label, defaults };
    onBackend(null);
    setOpen(false);
    setState({ kind: "loading", text: `Loading ${label} …`, share: null });
    controller.current?.abort();
    const { signal } = (controller.current = new AbortController());
    worker.current ??= createJanusWorker({
      onLost: (error) => {
        onBackend(null);
        setState({ kind: "lost", text: error.message });
      },
    });
    const report = (what: string, bytes: number, totalBytes: number): void =>
      setState({
        kind: "loading",
        text: `${what} ${label}: ${mb(bytes)} of ${mb(totalBytes)}`,
        share: bytes / totalBytes,
      });
    try {
      const loaded = await start(worker.current, {
        signal,
        onProgress: ({ bytes, totalBytes }) => report("Loading", bytes, totalBytes),
        onDownload: ({ bytes, totalBytes }) => report("Fetching", bytes, totalBytes),
      });
      if (signal.aborted) return; // another model was chosen meanwhile
      model.current = loaded;
      onBackend(new BrowserBackend(loaded, label, defaults));
      setState({ kind: "idle" });
      listStored();
    } catch (error) {
      if (!signal.aborted) setState({ kind: "error", text: error instanceof Error ? error.message : String(error) });
    }
  }

  const loadShapes = (): Promise<void> =>
    load("shapes", SHAPES, (w, { signal, onProgress }) =>
      w.fromFiles(new URL("shapes/", document.baseURI).href, { signal, onProgress }),
    );
  const loadFiles = (files: readonly File[]): Promise<void> =>
    load("your files", JANUS, (w, { signal, onProgress }) => w.fromFiles(files, { signal, onProgress }));
  const loadHub = (): Promise<void> =>
    load(name, JANUS, (w, options) =>
      w.fromPretrained(name, { ...options, ...(quantize && { quantize: quantize as "int4" | "int8" }) }),
    );

  async function recover(): Promise<void> {
    const lost = model.current;
    if (!lost) return loadShapes();
    const { label, defaults } = last.current;
    await load(label, defaults, async (_, options) => {
      await lost.recover(options);
      return lost;
    });
  }

  function use(server: ServerBackend): void {
    controller.current?.abort();
    onBackend(server);
    setState({ kind: "idle" });
    setOpen(false);
  }

  /** Asks the server for its models, with the key of this tab. Resolves to false if there is none to use. */
  async function findServer(): Promise<boolean> {
    const found = await ServerBackend.find(sessionStorage.getItem(KEY));
    setServers(found);
    if (found === "key" || !found[0]) return false;
    use(found[0]);
    return true;
  }

  async function unlock(): Promise<void> {
    sessionStorage.setItem(KEY, key);
    if (!(await findServer())) setState({ kind: "error", text: "The server does not accept this key." });
  }

  useEffect(() => {
    listStored();
    void findServer().then((isFound) => {
      if (!isFound) void loadShapes();
    });
    const stop = (event: DragEvent): void => event.preventDefault();
    addEventListener("dragover", stop);
    return () => removeEventListener("dragover", stop);
  }, []);

  const drop = (event: DragEvent): void => {
    event.preventDefault();
    setOver(false);
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length) void loadFiles(files);
  };

  return (
    <div class="model-bar">
      <div class="model-line" role="status" aria-live="polite">
        {state.kind === "loading" ? (
          <>
            <span class="dot busy" aria-hidden="true" />
            <span>{state.text}</span>
            <progress aria-label="Loading" {...(state.share === null ? {} : { value: state.share })} />
          </>
        ) : state.kind === "error" || state.kind === "lost" ? (
          <>
            <span class="dot bad" aria-hidden="true" />
            <span class="error">{state.text}</span>
          </>
        ) : backend ? (
          <>
            <span class="dot good" aria-hidden="true" />
            <span>
              <strong>{backend.name}</strong> on {backend.where}
            </span>
          </>
        ) : (
          <span>No model is loaded.</span>
        )}
      </div>
      <div class="row">
        {state.kind === "lost" && (
          <button type="button" class="primary" onClick={() => void recover()}>
            Recover
          </button>
        )}
        {state.kind === "loading" && (
          <button
            type="button"
            onClick={() => {
              controller.current?.abort();
              setState({ kind: "idle" });
            }}
          >
            Cancel
          </button>
        )}
        <button type="button" aria-expanded={isOpen} aria-controls="models" onClick={() => setOpen(!isOpen)}>
          Change model
        </button>
      </div>
      <div id="models" class="card models" hidden={!isOpen}>
        <div>
          <h2>Comes with the page</h2>
          <p>A small model of coloured shapes, 4 MB. It draws images of 32 × 32 pixels.</p>
          <button type="button" onClick={() => void loadShapes()}>
            Load shapes
          </button>
        </div>
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void loadHub();
          }}
        >
          <h2>From the hub</h2>
          <label>
            Name
            <input value={name} onInput={(event) => setName(event.currentTarget.value)} spellcheck={false} />
          </label>
          <label>
            Weights
            <select value={quantize} onChange={(event) => setQuantize(event.currentTarget.value)}>
              <option value="int4">4 bits</option>
              <option value="int8">8 bits</option>
              <option value="">as stored</option>
            </select>
          </label>
          <button type="submit">Fetch and load</button>
          {stored.map((one) => (
            <p key={`${one.name}@${one.revision}`} class="stored">
              {one.name}, {mb(one.bytes)} stored{" "}
              <button
                type="button"
                class="quiet"
                aria-label={`Delete ${one.name} from this browser`}
                onClick={() => void modelStorage.delete(one.name, one.revision).then(listStored)}
              >
                Delete
              </button>
            </p>
          ))}
        </form>
        <div
          class={`drop ${isOver ? "over" : ""}`}
          onDragEnter={() => setOver(true)}
          onDragLeave={() => setOver(false)}
          onDrop={drop}
        >
          <h2>Your files</h2>
          <p>Drop the files of a checkpoint here: config, tokenizer and weights.</p>
          <label class="button">
            Choose files
            <input
              type="file"
              multiple
              class="hidden"
              onChange={(event) => {
                const files = [...(event.currentTarget.files ?? [])];
                if (files.length) void loadFiles(files);
              }}
            />
          </label>
        </div>
        {servers === "key" && (
          <form
            onSubmit={(event) => {
              event.preventDefault();
              void unlock();
            }}
          >
            <h2>This server</h2>
            <label>
              API key
              <input
                type="password"
                autocomplete="off"
                value={key}
                onInput={(event) => setKey(event.currentTarget.value)}
                required
              />
            </label>
            <button type="submit">Use this server</button>
          </form>
        )}
        {servers !== "key" && servers.length > 0 && (
          <div>
            <h2>This server</h2>
            {servers.map((server) => (
              <button key={server.name} type="button" onClick={() => use(server)}>
                {server.name}
              </button>
            ))}
          </div>
        )}
      </div>
    </div>
  );
}

interface Options {
  readonly signal: AbortSignal;
  readonly onProgress: (progress: { readonly bytes: number; readonly totalBytes: number }) => void;
  readonly onDownload: (progress: { readonly bytes: number; readonly totalBytes: number }) => void;
}
