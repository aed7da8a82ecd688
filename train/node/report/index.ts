/** Self-contained pages (text, tables, charts and images in one HTML file), and the report of a training run. */
export { TASK_COLOURS, lineChart, specChart } from "./chart.ts";
export type { LineChartOptions, Mark, Series } from "./chart.ts";
export { Curve } from "./curve.ts";
export { Html, definitions, html, page, picture, pictureGrid, picturePairs, sideBySide, table } from "./html.ts";
export type { Content, PageOptions, PagePicture, Section } from "./html.ts";
export { readEvents, readLog } from "./log.ts";
export type { LogLine, RunEvent, StepEvent, TokenizerStepEvent } from "./log.ts";
export { RunCurves, runReport } from "./run_report.ts";
export type { RunReportOptions } from "./run_report.ts";
