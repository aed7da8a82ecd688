/** Curves as SVG by Vega-Lite. */
import { Warn, View, parse } from "vega";
import { compile } from "vega-lite";
import type { TopLevelSpec } from "vega-lite";

/** An SVG of losses over steps, on a logarithmic axis. */
export async function lossPlot(title: string, losses: readonly number[]): Promise<string> {
  const spec: TopLevelSpec = {
    title,
    width: 640,
    height: 320,
    background: "white",
    data: { values: losses.map((loss, step) => ({ step, loss })) },
    layer: [
      { mark: { type: "line", opacity: 0.35 } },
      { mark: { type: "line", strokeWidth: 2 }, transform: [{ window: [{ op: "mean", field: "loss", as: "smooth" }], frame: [-10, 10] }], encoding: { y: { field: "smooth", type: "quantitative" } } },
    ],
    encoding: {
      x: { field: "step", type: "quantitative", title: "step" },
      y: { field: "loss", type: "quantitative", title: "cross-entropy", scale: { type: "log" } },
    },
  };
  return new View(parse(compile(spec).spec), { renderer: "none", logLevel: Warn }).toSVG();
}
