/**
 * Runs the rows of the bench, forward and backward, on a stand-in for a GPU that compiles and computes nothing; the layer writes a line for
 * each pipeline. Its argument is a `Request` in JSON.
 */
import { writeFileSync } from "node:fs";
import { Device, F, backward, isFloat, scope } from "../../index.ts";
import type { Capabilities } from "../../index.ts";
import { selectRows } from "../rows/index.ts";
import { makeInputs } from "../rows/row.ts";
import type { Row } from "../rows/row.ts";

export interface Request {
  readonly filter: string;
  readonly lanes?: number;
  /** Where what went wrong is written. */
  readonly report: string;
}

/** The layer learns a pipeline's label by the environment: pipelines are compiled on this thread, one after the other. */
function labelPipelines(): void {
  const { prototype } = GPUDevice;
  const create = Object.getOwnPropertyDescriptor(prototype, "createComputePipeline")!
    .value as GPUDevice["createComputePipeline"];
  prototype.createComputePipeline = function (descriptor) {
    process.env["COMPILE_LABEL"] = descriptor.label ?? "";
    return create.call(this, descriptor);
  };
}

function runRow(device: Device, row: Row): void {
  const inputs = makeInputs(row, device, 1);
  try {
    scope(() => {
      for (const [i, t] of inputs.entries())
        t.requiresGrad = row.fromCase?.leaves.includes(i) ?? (isFloat(t.dtype) && row.isPure !== false);
      const y = row.run(inputs)[0]!;
      if (y.requiresGrad && y.size > 0) backward(y, F.ones(y.shape, { dtype: y.dtype, device }));
    });
  } finally {
    for (const t of inputs) t.dispose();
  }
}

const request = JSON.parse(process.argv[2]!) as Request;
const problems: string[] = [];
const device = await Device.create();
if (request.lanes)
  Object.defineProperty(device.capabilities, "subgroups", {
    value: [request.lanes, request.lanes] satisfies Capabilities["subgroups"],
  });
labelPipelines();
const rows = selectRows({ sets: ["ops", "1B", "large"] }).filter(({ name }) => new RegExp(request.filter).test(name));
for (const row of rows) {
  try {
    runRow(device, row);
    await device.sync();
  } catch (error) {
    problems.push(`${row.name}: ${(error as Error).message.split("\n")[0]}`);
  }
}
writeFileSync(request.report, JSON.stringify({ driver: device.capabilities.name, problems }));
// Dawn would take the device down on handles that are no driver's.
(process as unknown as { reallyExit: (code: number) => never }).reallyExit(0);
