/** The device tab: what this browser computes with, whether it computes rightly, and how fast; exported as JSON. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { BenchReport, CheckReport, DeviceReport, FromChecker, ToChecker } from "./check_worker.ts";
import { download } from "./pixels.ts";

const ROWS = 60;
const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

export function DeviceTab() {
  const [device, setDevice] = useState<DeviceReport | null>(null);
  const [checks, setChecks] = useState<CheckReport | null>(null);
  const [bench, setBench] = useState<BenchReport | null>(null);
  const [progress, setProgress] = useState<{ readonly text: string; readonly share: number } | null>(null);
  const [error, setError] = useState("");
  const worker = useRef<Worker | null>(null);
  useEffect(() => () => worker.current?.terminate(), []);

  const send = (message: ToChecker): void => {
    setError("");
    setProgress({ text: "opening the device", share: 0 });
    if (!worker.current) {
      worker.current = new Worker(new URL("./check_worker.ts", import.meta.url), { type: "module" });
      worker.current.addEventListener("message", ({ data }: MessageEvent<FromChecker>) => {
        if (data.type === "progress") return setProgress(data);
        setProgress(null);
        if (data.type === "device") setDevice(data.report);
        else if (data.type === "checked") setChecks(data.report);
        else if (data.type === "measured") setBench(data.report);
        else setError(data.message);
      });
    }
    worker.current.postMessage(message);
  };

  const save = (): void => {
    const report = { version: 1, at: new Date().toISOString(), device, checks, bench };
    download("janus-device.json", JSON.stringify(report, null, 2));
  };

  return (
    <div class="device">
      <div class="card">
        <h2>This device</h2>
        <p>
          What this browser computes with. The self-test runs {ROWS} cases of the op table, forward and gradients,
          against float64. The bench compares ops with what the device reaches at most.
        </p>
        <div class="row">
          <button type="button" disabled={progress !== null} onClick={() => send({ type: "describe" })}>
            Describe
          </button>
          <button
            type="button"
            class="primary"
            disabled={progress !== null}
            onClick={() => send({ type: "check", rows: ROWS })}
          >
            Self-test
          </button>
          <button type="button" disabled={progress !== null} onClick={() => send({ type: "bench" })}>
            Bench
          </button>
          <button type="button" disabled={!device && !checks && !bench} onClick={save}>
            Export JSON
          </button>
        </div>
        <p role="status">
          {progress && (
            <>
              {progress.text} <progress value={progress.share} aria-label="Share that is done" />
            </>
          )}
        </p>
        {error && (
          <p class="error" role="alert">
            {error}
          </p>
        )}
      </div>
      {device && (
        <div class="card">
          <h3>{device.name}</h3>
          <dl>
            <dt>Vendor</dt>
            <dd>{device.vendor || "not told"}</dd>
            <dt>Architecture</dt>
            <dd>{device.architecture || "not told"}</dd>
            <dt>Kind</dt>
            <dd>{device.isSoftware ? "emulated on the CPU" : "GPU"}</dd>
            <dt>16-bit floats</dt>
            <dd>{device.features.includes("shader-f16") ? "yes" : "no"}</dd>
            <dt>Largest buffer</dt>
            <dd>{((device.limits["maxBufferSize"] ?? 0) / 1e6).toFixed(0)} MB</dd>
            <dt>Largest binding</dt>
            <dd>{((device.limits["maxStorageBufferBindingSize"] ?? 0) / 1e6).toFixed(0)} MB</dd>
          </dl>
        </div>
      )}
      {checks && (
        <div class="card">
          <h3>Self-test: {checks.failures.length === 0 ? "passed" : `${checks.failures.length} failures`}</h3>
          <p>
            {checks.rows} rows, {checks.checks} checks, seed {checks.seed}
          </p>
          <ul>
            {checks.failures.map((failure) => (
              <li key={failure}>{failure}</li>
            ))}
          </ul>
        </div>
      )}
      {bench && (
        <div class="card">
          <h3>Bench</h3>
          <p>
            Ceilings: {bench.ceilings.gflops.toFixed(0)} GFLOP/s of multiply-adds, {bench.ceilings.readGbs.toFixed(1)}{" "}
            GB/s read, {bench.ceilings.copyGbs.toFixed(1)} GB/s copied
          </p>
          <table>
            <thead>
              <tr>
                <th scope="col">Op</th>
                <th scope="col">ms</th>
                <th scope="col">Rate</th>
                <th scope="col">Of the ceiling</th>
              </tr>
            </thead>
            <tbody>
              {bench.rows.map(({ name, ms, rate, share }) => (
                <tr key={name}>
                  <th scope="row">{name}</th>
                  <td>{ms.toFixed(2)}</td>
                  <td>{rate}</td>
                  <td>{percent(share)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </div>
  );
}
