/** The page: a model, and four things to do with it. */
import { render } from "preact";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { WorkerJanus } from "../../model/janus/web/worker_client.ts";
import type { Backend } from "./backend.ts";
import { Chat } from "./chat.tsx";
import { DeviceTab } from "./device.tsx";
import { Draw } from "./draw.tsx";
import { ModelBar } from "./models.tsx";
import { Train } from "./train.tsx";

const TABS = ["chat", "draw", "train", "device"] as const;
type Tab = (typeof TABS)[number];
const LABELS: Readonly<Record<Tab, string>> = { chat: "Chat", draw: "Draw", train: "Train", device: "This device" };

const tabOf = (hash: string): Tab => TABS.find((tab) => `#${tab}` === hash) ?? "draw";

function useTheme(): readonly [string, () => void] {
  const [theme, setTheme] = useState(() => localStorage.getItem("theme") ?? "");
  useEffect(() => {
    if (theme) document.documentElement.dataset["theme"] = theme;
    else delete document.documentElement.dataset["theme"];
    localStorage.setItem("theme", theme);
  }, [theme]);
  const isDark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  return [isDark ? "light" : "dark", () => setTheme(isDark ? "light" : "dark")];
}

function Tabs({ tab, onTab }: { readonly tab: Tab; readonly onTab: (tab: Tab) => void }) {
  const move = (event: KeyboardEvent): void => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (step === 0) return;
    const next = TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length]!;
    onTab(next);
    document.getElementById(`tab-${next}`)?.focus();
  };
  return (
    <div class="tabs" role="tablist" aria-label="What to do" onKeyDown={move}>
      {TABS.map((one) => (
        <button
          key={one}
          id={`tab-${one}`}
          role="tab"
          type="button"
          aria-selected={one === tab}
          aria-controls={`panel-${one}`}
          tabIndex={one === tab ? 0 : -1}
          onClick={() => onTab(one)}
        >
          {LABELS[one]}
        </button>
      ))}
    </div>
  );
}

function App() {
  const [tab, setTab] = useState<Tab>(() => tabOf(location.hash));
  const [backend, setBackend] = useState<Backend | null>(null);
  const [asked, setAsked] = useState<Blob | null>(null);
  const [otherTheme, switchTheme] = useTheme();
  const model = useRef<WorkerJanus | null>(null);
  const open = useCallback((next: Tab) => {
    history.replaceState(null, "", `#${next}`);
    setTab(next);
  }, []);
  useEffect(() => {
    const onHash = (): void => setTab(tabOf(location.hash));
    addEventListener("hashchange", onHash);
    return () => removeEventListener("hashchange", onHash);
  }, []);
  const panels: Readonly<Record<Tab, preact.JSX.Element>> = {
    chat: <Chat backend={backend} given={asked} onTaken={() => setAsked(null)} />,
    draw: (
      <Draw
        backend={backend}
        onAsk={(image) => {
          setAsked(image);
          open("chat");
        }}
      />
    ),
    train: <Train />,
    device: <DeviceTab />,
  };
  return (
    <>
      <header>
        <h1>
          <span class="logo" aria-hidden="true" />
          janus-webgpu
        </h1>
        <Tabs tab={tab} onTab={open} />
        <button type="button" class="quiet" onClick={switchTheme} aria-label={`Switch to the ${otherTheme} theme`}>
          {otherTheme === "dark" ? "☾" : "☀"}
        </button>
      </header>
      <ModelBar backend={backend} onBackend={setBackend} model={model} />
      <main>
        {TABS.map((one) => (
          <section key={one} id={`panel-${one}`} role="tabpanel" aria-labelledby={`tab-${one}`} hidden={one !== tab}>
            {panels[one]}
          </section>
        ))}
      </main>
    </>
  );
}

render(<App />, document.getElementById("app")!);
