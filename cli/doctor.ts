/** `janus doctor`: what this machine offers (adapters, limits, memory, versions), and whether the chosen device computes rightly. */
import { availableParallelism, freemem, release, totalmem } from "node:os";
import { Option } from "commander";
import type { Capabilities } from "../engine/capabilities.ts";
import type { Device } from "../engine/device.ts";
import { JanusError } from "../engine/errors.ts";
import type { FoundTable } from "../engine/tuned.ts";
import type { Output } from "./console.ts";
import type { AddCommand, Context } from "./context.ts";
import { createDevice, deviceError, softwareWarning } from "./device.ts";
import type { Check } from "./doctor_checks.ts";
import { EXIT, exitCodeOf } from "./errors.ts";
import { formatBytes, formatCount, formatDuration, indent, table } from "./format.ts";
import { adapter } from "./options.ts";
import { ownVersion, packageVersion } from "./packages.ts";
import { measureLink, withRanks } from "./ranks.ts";
import type { Transport } from "../train/rank_group.ts";

const PACKAGES = ["webgpu", "koffi", "sharp", "@huggingface/tokenizers", "@huggingface/jinja"];

export const addDoctor: AddCommand = (program, context) => {
  program
    .command("doctor")
    .summary("show the GPUs of this machine and test one")
    .description(
      "Show adapters, limits, features, memory and versions, then run a self-test on a device, comparing its results with those of the host.",
    )
    .addOption(
      new Option(
        "--adapter <adapter>",
        "adapter to test: its number in the list, or part of its name (default: the fastest)",
      ).argParser(adapter),
    )
    .option("--json", "print one JSON object")
    .action((flags: { adapter?: string | number }) =>
      withRanks(context, flags.adapter, ({ adapter: own, transport }) =>
        doctor(context, () => createDevice(own), transport),
      ),
    );
};

/**
 * The command. `open` opens the device to test.
 * @param transport between the processes that mpirun has started; their messages are measured
 */
export async function doctor(
  context: Context,
  open: () => Promise<Device>,
  transport: Transport | null = null,
): Promise<void> {
  const { out, signal } = context;
  const machine = { ...describeMachine(), mpi: await describeMpi() };
  out.text(`machine\n${indent(machineText(machine))}\n\n`);
  const link = transport && (await measureLink(transport));
  if (link)
    out.text(
      `ranks\n${indent(
        table([
          ["processes", String(transport.size)],
          ["message", `${link.latencyMs.toFixed(2)} ms`],
          ["gradients", `${formatBytes(link.bytesPerSecond)}/s from each`],
        ]),
      )}\n\n`,
    );
  const adapters: Adapter[] = [];
  let device: Device;
  try {
    adapters.push(...(await findAdapters()));
    out.text(`adapters\n${indent(adaptersText(adapters))}\n\n`);
    device = await open();
  } catch (thrown) {
    await reportNoDevice(deviceError(thrown), { passed: false, machine, adapters }, context);
    return;
  }
  try {
    const budgetBytes = Number.isFinite(device.pool.budget) ? device.pool.budget : null;
    const tuned = await tunedTable(device);
    out.text(`device\n${indent(deviceText(device.capabilities, budgetBytes, tuned))}\n\n`);
    const { unknownChoices } = await import("../kernels/families.ts");
    const unknown = unknownChoices(device.capabilities.tuned);
    const warnings = warningsFor(device.capabilities, machine, budgetBytes);
    if (unknown.length)
      warnings.push(
        `the table of kernel variants names what this release does not have, which has no effect: ${unknown.join(", ")}. Run janus tune again`,
      );
    for (const warning of warnings) out.warn(warning);
    const { runChecks } = await import("./doctor_checks.ts");
    const checks: Check[] = [];
    out.text("self-test\n");
    for await (const check of runChecks(device, signal)) {
      checks.push(check);
      out.text(`${indent(checkText(check, out.resultColours))}\n`);
    }
    const passed = checks.every((check) => check.passed);
    if (!passed) context.exitCode = EXIT.checkFailed;
    out.result({
      passed,
      machine,
      ...(link && { ranks: { processes: transport.size, ...link } }),
      adapters,
      device: { ...device.capabilities, budgetBytes, tunedFrom: tuned?.from ?? null },
      warnings,
      checks,
    });
  } finally {
    device.destroy();
  }
}

/** The report is wanted most if there is no device: it is printed all the same, with the error in it. */
async function reportNoDevice(error: unknown, report: object, context: Context): Promise<void> {
  const exitCode = await exitCodeOf(error);
  if (!(error instanceof JanusError) || exitCode !== EXIT.device) throw error;
  context.exitCode = exitCode;
  context.out.error(error.message);
  context.out.result({ ...report, device: null, error: { name: error.name, message: error.message, exitCode } });
}

interface Machine {
  readonly janus: string;
  readonly node: string;
  readonly platform: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly freeBytes: number;
  /** Memory limit of the container; null if there is none. */
  readonly allowedBytes: number | null;
  readonly packages: Readonly<Record<string, string | null>>;
  /** Open MPI, for training on several processes. */
  readonly mpi: string;
}

/** Version of Open MPI, or why it cannot be used. */
async function describeMpi(): Promise<string> {
  const { openMpiLibrary } = await import("../train/node/ranks/mpi.ts");
  return openMpiLibrary().then(
    ({ version, file }) => `${/v?\d+\.\d+\.\d+/.exec(version)?.[0] ?? version} (${file})`,
    () => "no Open MPI found; only training on several processes needs it",
  );
}

function describeMachine(): Omit<Machine, "mpi"> {
  const memoryBytes = totalmem();
  const allowed = process.constrainedMemory(); // 0, or larger than the machine, if nothing constrains it
  return {
    janus: ownVersion(),
    node: process.versions.node,
    platform: `${process.platform} ${process.arch} ${release()}`,
    cpus: availableParallelism(),
    memoryBytes,
    freeBytes: freemem(),
    allowedBytes: allowed > 0 && allowed < memoryBytes ? allowed : null,
    packages: Object.fromEntries(PACKAGES.map((name) => [name, packageVersion(name)])),
  };
}

interface Adapter extends Pick<Capabilities, "name" | "vendor" | "architecture" | "software" | "features"> {
  /** For `--adapter`. */
  readonly index: number;
}

async function findAdapters(): Promise<Adapter[]> {
  const { DEFAULT_LIMITS, capabilitiesOf, listAdapters } = await import("../engine/index.ts");
  return (await listAdapters()).map(({ adapter: found }, index) => {
    const features = [...found.features].sort();
    const { name, vendor, architecture, software } = capabilitiesOf(found, features, DEFAULT_LIMITS);
    return { index, name, vendor, architecture, software, features };
  });
}

function warningsFor(
  { name, software }: Capabilities,
  { allowedBytes }: Machine,
  budgetBytes: number | null,
): string[] {
  const warnings = software ? [softwareWarning(name)] : [];
  if (allowedBytes !== null && budgetBytes !== null && budgetBytes > allowedBytes) {
    warnings.push(
      `this process may use ${formatBytes(allowedBytes)} of memory (a container's limit), less than the budget of ${formatBytes(budgetBytes)}: the system would end it without an error`,
    );
  }
  return warnings;
}

function machineText(machine: Machine): string {
  const { memoryBytes, freeBytes, allowedBytes } = machine;
  const allowed = allowedBytes === null ? "" : `, ${formatBytes(allowedBytes)} allowed to this process`;
  return table([
    ["janus-webgpu", machine.janus],
    ["node", machine.node],
    ["platform", `${machine.platform}, ${machine.cpus} CPUs`],
    ["memory", `${formatBytes(memoryBytes)}, ${formatBytes(freeBytes)} free${allowed}`],
    ...Object.entries(machine.packages).map(([name, version]) => [name, version ?? "not installed"]),
    ["Open MPI", machine.mpi],
  ]);
}

const adaptersText = (adapters: readonly Adapter[]): string =>
  adapters.length
    ? table(
        adapters.map(({ index, name, vendor, software }) => [String(index), name, vendor, software ? "software" : ""]),
      )
    : "none";

/** The table of measured kernel variants that the device uses; null if there is none. */
async function tunedTable(device: Device): Promise<FoundTable | null> {
  const { findTuned } = await import("../engine/index.ts");
  return device.gpu ? findTuned(device.gpu.adapterInfo) : null;
}

function tunedText(found: FoundTable | null): string {
  if (!found) return "defaults of the package (janus tune finds the fastest on this device)";
  const classes = Object.values(found.table.variants).reduce((n, names) => n + Object.keys(names).length, 0);
  return `${formatCount(classes)} measured choices of ${found.table.date.slice(0, 10)}, from ${found.from}`;
}

function deviceText(device: Capabilities, budgetBytes: number | null, tuned: FoundTable | null): string {
  const { subgroups, subgroupMatrix, limits } = device;
  const yes = (has: boolean): string => (has ? "yes" : "no");
  return table([
    ["name", device.name],
    ["kind", device.software ? "software" : [device.vendor, device.architecture].filter(Boolean).join(" ")],
    ["memory budget", budgetBytes === null ? "none" : formatBytes(budgetBytes)],
    ["f16", yes(device.f16)],
    ["subgroups", subgroups ? [...new Set(subgroups)].join(" to ") : "no"],
    ["subgroup matrices", matricesText(subgroupMatrix)],
    ["timestamps", yes(device.timestamps)],
    ["kernel variants", tunedText(tuned)],
    ...Object.entries(limits).map(([name, value]: [string, number]) => [name, formatCount(value)]),
  ]);
}

/** Shape and types of each kind, e.g. 16×16×16 f16→f32. */
export const matricesText = (kinds: Capabilities["subgroupMatrix"]): string =>
  kinds
    .map(({ M, N, K, componentType, resultComponentType }) => `${M}×${N}×${K} ${componentType}→${resultComponentType}`)
    .join(", ") || "no";

function checkText({ name, passed, detail, ms }: Check, colours: Output["resultColours"]): string {
  return `${passed ? colours.green("pass") : colours.red("FAIL")}  ${name}: ${detail} (${formatDuration(ms)})`;
}
