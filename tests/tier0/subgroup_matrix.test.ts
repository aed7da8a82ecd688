/**
 * Kernels on subgroup matrices without a device that has them: which configuration and tile a device gets, that every pair of them compiles, and
 * that only kernels with subgroup matrices ask for the feature.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { DEFAULT_LIMITS, capabilitiesOf, declaredKernels, nullCapabilities, specialise } from "../../index.ts";
import type { Capabilities, Constants, DType, Kernel, Limits, SubgroupMatrixConfig, Uses } from "../../index.ts";
import { matricesText } from "../../cli/doctor.ts";
import { requestGPU } from "../../engine/platform.ts";
import { attentionVariant } from "../../kernels/attention/variants.ts";
import type { AttentionProblem, AttentionVariant } from "../../kernels/attention/variants.ts";
import { directVariant } from "../../kernels/conv/variants.ts";
import type { ConvProblem } from "../../kernels/conv/variants.ts";
import { forceVariant } from "../../kernels/core/variants.ts";
import { matmulVariant } from "../../kernels/matmul/variants.ts";
import type { MatmulChoice, MatmulProblem } from "../../kernels/matmul/variants.ts";

const config = (
  M: number,
  N: number,
  K: number,
  componentType = "f16",
  resultComponentType = "f32",
): SubgroupMatrixConfig => ({
  M,
  N,
  K,
  componentType,
  resultComponentType,
});
const limits = {
  maxComputeInvocationsPerWorkgroup: 1024,
  maxComputeWorkgroupSizeX: 1024,
  maxComputeWorkgroupStorageSize: 32768,
};
const gpu = (
  subgroups: readonly [number, number],
  configs: readonly SubgroupMatrixConfig[],
  overrides: Partial<Capabilities> = {},
): Capabilities =>
  nullCapabilities({
    f16: true,
    subgroups,
    subgroupSizeControl: true,
    subgroupMatrix: configs,
    limits,
    ...overrides,
  });

/** What devices list. */
const DEVICES = {
  NVIDIA: gpu(
    [32, 32],
    [
      config(16, 16, 16, "f16", "f16"),
      config(16, 16, 16),
      config(16, 8, 16),
      config(16, 8, 8),
      config(16, 16, 32, "i8", "i32"),
    ],
    { limits: { ...limits, maxComputeWorkgroupStorageSize: 49152 } as Limits },
  ),
  AMD: gpu([32, 64], [config(16, 16, 16, "f16", "f16"), config(16, 16, 16)]),
  "AMD, waves of 64": gpu([64, 64], [config(16, 16, 16)]),
  Intel: gpu([16, 32], [config(8, 16, 16)]),
  "Intel, subgroups of 16": gpu([16, 16], [config(8, 16, 16)]),
  Apple: gpu([32, 32], [config(8, 8, 8, "f32", "f32"), config(8, 8, 8, "f16", "f16")]),
  lavapipe: gpu([8, 8], [config(8, 8, 8, "f16", "f16"), config(8, 8, 8), config(8, 8, 8, "u8", "u32")], {
    software: true,
  }),
} as const;

const problem = (p: Partial<MatmulProblem> = {}): MatmulProblem => ({
  batches: 1,
  m: 512,
  n: 512,
  k: 512,
  transA: false,
  transB: true,
  a: "f16",
  b: "f16",
  packs: false,
  ...p,
});

const NAMES = ["subgroup-matrix", "subgroup-matrix-128", "subgroup-matrix-turned"];

describe("the configuration", () => {
  const shape = (c: Capabilities, p: Partial<MatmulProblem> = {}): string => {
    const { kernel, constants, use } = forceVariant("matmul", "subgroup-matrix", () => matmulVariant(c, problem(p)));
    return kernel === "matrix"
      ? `${constants.CM}×${constants.CN}×${constants.CK} ${(use.c as { name: string }).name}`
      : kernel;
  };
  it("is the largest with f32 sums that keeps the operands' values", () => {
    expect(shape(DEVICES.NVIDIA)).toBe("16×16×16 matrix_f16");
    expect(shape(DEVICES.Intel)).toBe("8×16×16 matrix_f16");
    expect(shape(DEVICES.Apple)).toBe("8×8×8 matrix_f32");
    expect(shape(DEVICES.lavapipe)).toBe("8×8×8 matrix_f16");
  });
  it("is none for operands that f16 would cut short", () => {
    for (const dtype of ["f32", "bf16"] as const) {
      expect(shape(DEVICES.NVIDIA, { a: dtype })).not.toContain("matrix");
      expect(shape(DEVICES.NVIDIA, { b: dtype })).not.toContain("matrix");
      expect(shape(DEVICES.Apple, { a: dtype })).toBe("8×8×8 matrix_f32");
    }
  });
  it("is none without a subgroup size to rely on, without f16, or with f16 sums alone", () => {
    const matrices = [config(16, 16, 16)];
    expect(shape(gpu([8, 32], matrices, { subgroupSizeControl: false }))).not.toContain("matrix");
    expect(shape(gpu([32, 32], matrices, { subgroups: null }))).not.toContain("matrix");
    expect(shape(gpu([32, 32], matrices, { f16: false }))).not.toContain("matrix");
    expect(shape(gpu([32, 32], [config(8, 8, 8, "f16", "f16")]))).not.toContain("matrix");
  });
});

describe("the place in the table", () => {
  const chosen = (c: Capabilities, p: Partial<MatmulProblem> = {}): string => matmulVariant(c, problem(p)).kernel;
  it("is the first for large products of f16 on a GPU", () => {
    expect(chosen(DEVICES.NVIDIA)).toBe("matrix");
    expect(chosen(DEVICES.NVIDIA, { transA: true, transB: false })).toBe("matrix");
    expect(chosen(DEVICES.NVIDIA, { a: "bf16", b: "bf16" })).toBe("tiled");
  });
  it("is not for few rows or columns, whose bits must not depend on their number, nor for small products", () => {
    for (const m of [1, 2, 8, 32]) expect(chosen(DEVICES.NVIDIA, { m })).toBe("vector");
    expect(chosen(DEVICES.NVIDIA, { n: 8 })).toBe("tiled");
    expect(chosen(DEVICES.NVIDIA, { m: 40, n: 40, k: 32 })).toBe("tiled");
  });
  it("is never the default on software Vulkan", () => {
    expect(chosen(DEVICES.lavapipe)).toBe("register");
  });
});

describe("attention", () => {
  const names = (c: Capabilities, p: Partial<AttentionProblem> = {}): string[] => {
    const v = heads(c, p);
    return [v.forward, v.query, v.key].map(({ name }) => name.replace("attention_", ""));
  };
  const matrices = ["subgroup_matrix", "subgroup_matrix_query", "subgroup_matrix_key"];
  const tiles = ["tiled", "tiled_query", "tiled_key"];
  it("takes them for heads of 16 to 128 elements", () => {
    for (const d of [16, 64, 96, 128]) expect(names(DEVICES.NVIDIA, { d })).toEqual(matrices);
    for (const d of [8, 36, 72, 256]) expect(names(DEVICES.NVIDIA, { d })).toEqual(tiles);
  });
  it("takes tiles backward if the two results do not split, the memory is too small, or g has another dtype", () => {
    const forward = [matrices[0], ...tiles.slice(1)];
    expect(names(DEVICES.NVIDIA, { d: 80 })).toEqual(forward);
    expect(names(DEVICES.AMD, { d: 128 })).toEqual(forward);
    expect(names(DEVICES.Apple, { d: 64 })).toEqual(forward);
    expect(names(DEVICES.NVIDIA, { g: "f32" })).toEqual(forward);
  });
  it("takes tiles for operands that f16 would cut short", () => {
    expect(names(DEVICES.NVIDIA, { q: "bf16", g: "bf16" })).toEqual(tiles);
    expect(names(DEVICES.NVIDIA, { k: "f32" })).toEqual(tiles);
  });
  it("prefers them on GPUs and not on software Vulkan", () => {
    expect(attentionVariant(DEVICES.AMD, { d: 64, q: "f16", k: "f16" }).forward.name).toBe("attention_subgroup_matrix");
    expect(attentionVariant(DEVICES.lavapipe, { d: 64, q: "f16", k: "f16" }).forward.name).toBe("attention_register");
  });
  it.each(Object.entries(DEVICES))("%s: a subgroup has whole rows, and shares each among its invocations", (_, c) => {
    const { CM, LANES, WORKGROUP, COLUMNS, DEPTH, PART } = heads(c).split.constants as Readonly<Record<string, number>>;
    expect([LANES! % CM!, WORKGROUP! % LANES!, COLUMNS! % ((4 * LANES!) / CM!), DEPTH! % PART!]).toEqual([0, 0, 0, 0]);
  });
});

const convolution = (outputs: number, x: DType = "f16", w: DType = "f16"): ConvProblem => {
  const size = { height: 32, width: 32, outHeight: 32, outWidth: 32 };
  const g = {
    images: 1,
    channels: 16,
    outputs,
    ...size,
    kernelHeight: 3,
    kernelWidth: 3,
    stride: 1,
    up: 1,
    top: 1,
    left: 1,
  };
  return { g, x, w };
};

describe("conv2d", () => {
  const chosen = (c: Capabilities, problem: ConvProblem): string => directVariant(c, problem).forward.kernel.name;
  it("takes them on GPUs for f16 pixels and weights, if there are enough channels", () => {
    expect(chosen(DEVICES.NVIDIA, convolution(64))).toBe("conv2d_subgroup_matrix");
    expect(chosen(DEVICES.NVIDIA, convolution(3))).toBe("conv2d_tiled");
    expect(chosen(DEVICES.NVIDIA, convolution(64, "f16", "f32"))).toBe("conv2d_tiled");
    expect(chosen(DEVICES.NVIDIA, convolution(64, "bf16", "bf16"))).toBe("conv2d_tiled");
    expect(chosen(DEVICES.Apple, convolution(64, "bf16", "f32"))).toBe("conv2d_subgroup_matrix");
    expect(chosen(DEVICES.lavapipe, convolution(64))).not.toContain("matrix");
  });
  it.each(Object.entries(DEVICES))("%s: subgroups share the tile evenly", (_, c) => {
    for (const outputs of [32, 64, 65, 512]) {
      const { kernel, constants } = forceVariant("conv2d", "subgroup-matrix", () =>
        directVariant(c, convolution(outputs)),
      ).forward;
      expect(kernel.name).toBe("conv2d_subgroup_matrix");
      const { OUTPUTS, DOWN, ACROSS, CM, CN, CK, BK, LANES, WORKGROUP } = constants as Readonly<Record<string, number>>;
      expect(OUTPUTS).toBe(outputs > 64 ? 128 : 64);
      expect(DOWN! * ACROSS! * LANES!).toBe(WORKGROUP);
      expect([OUTPUTS! % (DOWN! * CM!), 64 % (ACROSS! * CN!), BK! % CK!, BK! % (WORKGROUP! / 16)]).toEqual([
        0, 0, 0, 0,
      ]);
      expect((BK! * OUTPUTS!) % (4 * WORKGROUP!)).toBe(0);
    }
  });
});

describe("tiles", () => {
  it.each(Object.entries(DEVICES))("%s: subgroups share a tile evenly, within the limits", (_, capabilities) => {
    for (const [name, size] of [40, 512, 4096].flatMap((n) => NAMES.map((name) => [name, n] as const)))
      for (const p of layouts({ m: size, n: size })) {
        const { kernel, constants, rows, columns } = forced(capabilities, name, p);
        expect(kernel).toBe("matrix");
        const { BM, BN, BK, DOWN, ACROSS, CM, CN, CK, LANES, WORKGROUP } = constants as Readonly<
          Record<string, number>
        >;
        expect([BM, BN]).toEqual([rows, columns]);
        expect(DOWN! * ACROSS! * LANES!).toBe(WORKGROUP);
        // Turned, an invocation loads whole blocks of four units.
        if (constants["TURN_A"]) expect((BM! * BK!) % (16 * WORKGROUP!)).toBe(0);
        if (constants["TURN_B"]) expect((BN! * BK!) % (16 * WORKGROUP!)).toBe(0);
        expect([BM! % (DOWN! * CM!), BN! % (ACROSS! * CN!), BK! % CK!]).toEqual([0, 0, 0]);
      }
  });
  it("are turned on AMD's devices", () => {
    const turns = (vendor: string, p: Partial<MatmulProblem>): unknown[] => {
      const { constants } = forced({ ...DEVICES.AMD, vendor }, "subgroup-matrix", problem(p));
      return [constants["TURN_A"], constants["TURN_B"]];
    };
    expect(turns("amd", { transA: true, transB: false })).toEqual([true, true]);
    expect(turns("amd", {})).toEqual([false, false]);
    expect(turns("nvidia", { transA: true, transB: false })).toEqual([false, false]);
  });
  it("are the small ones if the large ones exceed the device's limits or leave it idle", () => {
    const tight = gpu([32, 32], [config(16, 16, 16)], {
      limits: { ...limits, maxComputeWorkgroupStorageSize: 16384 } as Limits,
    });
    const sides = (c: Capabilities, name: string, p: Partial<MatmulProblem> = {}): number[] => {
      const { rows, columns } = forced(c, name, problem({ m: 4096, n: 4096, ...p }));
      return [rows, columns];
    };
    expect(sides(tight, "subgroup-matrix-128")).toEqual([128, 64]);
    expect(sides(gpu([32, 32], [config(16, 16, 16)], { limits: DEFAULT_LIMITS }), "subgroup-matrix-128")).toEqual([
      128, 64,
    ]);
    expect(sides(DEVICES.NVIDIA, "subgroup-matrix")).toEqual([128, 128]);
    expect(sides(DEVICES.NVIDIA, "subgroup-matrix", { transA: true, transB: false })).toEqual([128, 64]);
    expect(sides(DEVICES.NVIDIA, "subgroup-matrix", { m: 512, n: 512 })).toEqual([64, 64]);
  });
});

const heads = (c: Capabilities, p: Partial<AttentionProblem> = {}): AttentionVariant =>
  forceVariant("attention", "subgroup-matrix", () =>
    attentionVariant(c, { d: 64, q: "f16", k: "f16", g: "f16", ...p }),
  );
const forced = (c: Capabilities, name: string, p: MatmulProblem): MatmulChoice =>
  forceVariant("matmul", name, () => matmulVariant(c, p));
const layouts = (p: Partial<MatmulProblem>): MatmulProblem[] =>
  [false, true].flatMap((transA) => [false, true].map((transB) => problem({ ...p, transA, transB })));

describe("templates compile", () => {
  let device: GPUDevice;
  beforeAll(async () => {
    const adapter = await (await requestGPU("null")).requestAdapter();
    device = await adapter!.requestDevice({ requiredFeatures: [...adapter!.features] as GPUFeatureName[] });
  });

  /** What the compiler has against a kernel; the null back end's device has the limits of every device, which large tiles exceed. */
  async function complaint(kernel: Kernel, constants: Constants, uses: Uses): Promise<string | null> {
    const code = specialise(kernel, constants, uses);
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ code });
    device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: kernel.name } });
    const error = await device.popErrorScope();
    return !error || /larger than the maximum allowed|exceeds the maximum allowed/.test(error.message)
      ? null
      : error.message;
  }

  it.each(Object.entries(DEVICES))("matmul on %s", async (_, capabilities) => {
    const kernel = declaredKernels().find(({ name }) => name === "matmul_subgroup_matrix")!;
    for (const name of NAMES)
      // Each operand lies once this way and once the other.
      for (const p of layouts({ m: 64, n: 64 }).filter(({ transA, transB }) => transA === transB)) {
        const { constants, use } = forced(capabilities, name, p);
        const epilogue = { BIAS: true, ACTIVATION: 1 };
        const said = await complaint(kernel, { ...constants, ...epilogue }, { ...use, a: "f16", b: "f16", y: "f16" });
        expect(said, JSON.stringify(constants)).toBeNull();
      }
  });
  it.each(Object.entries(DEVICES))("attention on %s", async (device, capabilities) => {
    for (const d of [16, 64, 128]) {
      const v = heads(capabilities, { d });
      const stored = { q: "f16", k: "f16" } as const;
      if (!v.forward.name.includes("matrix")) continue;
      expect(
        await complaint(v.forward, v.split.constants, { ...v.use, ...stored, o: "f16" }),
        `${device} ${d}`,
      ).toBeNull();
      for (const [k, split] of [[v.query, v.querySplit] as const, [v.key, v.keySplit] as const])
        if (k.name.includes("matrix"))
          expect(
            await complaint(k, split.constants, { ...v.gradientUse, ...stored, g: "f16" }),
            `${device} ${d}`,
          ).toBeNull();
    }
  });
  it.each(Object.entries(DEVICES))("conv2d on %s", async (_, capabilities) => {
    for (const outputs of [64, 128]) {
      const v = forceVariant("conv2d", "subgroup-matrix", () =>
        directVariant(capabilities, convolution(outputs)),
      ).forward;
      expect(await complaint(v.kernel, v.constants, { ...v.use, x: "f16", y: "f16" }), `${outputs}`).toBeNull();
    }
  });
  it("no other kernel asks for the feature", () => {
    const asking = declaredKernels().filter((k) =>
      specialise(k).includes("enable chromium_experimental_subgroup_matrix;"),
    );
    for (const { name } of asking) expect(name).toMatch(/_subgroup_matrix/);
    expect(asking.length).toBeGreaterThan(0);
  });
});

describe("an adapter's kinds of matrices", () => {
  // As Dawn reports them: accessors on a prototype, no own property.
  class Reported {
    get M(): number {
      return 16;
    }
    get N(): number {
      return 8;
    }
    get K(): number {
      return 16;
    }
    get componentType(): string {
      return "f16";
    }
    get resultComponentType(): string {
      return "f32";
    }
  }
  const info = { vendor: "nvidia", subgroupMatrixConfigs: [new Reported()] } as unknown as GPUAdapterInfo;
  const { subgroupMatrix } = capabilitiesOf(info, ["chromium-experimental-subgroup-matrix"], DEFAULT_LIMITS);
  it("are plain data", () => {
    expect(JSON.parse(JSON.stringify(subgroupMatrix))).toEqual([config(16, 8, 16)]);
  });
  it("are none without the feature", () => {
    expect(capabilitiesOf(info, [], DEFAULT_LIMITS).subgroupMatrix).toEqual([]);
  });
  it("are listed by doctor", () => {
    expect(matricesText([...subgroupMatrix, config(8, 8, 8, "f32", "f32")])).toBe("16×8×16 f16→f32, 8×8×8 f32→f32");
    expect(matricesText([])).toBe("no");
  });
});

it("the lane says why it did not run, with an exit code of its own", () => {
  const script = fileURLToPath(new URL("../../scripts/test_subgroup_matrix.mjs", import.meta.url));
  const env = { ...process.env, JANUS_MESA_DIR: "/nowhere" };
  const { status, stdout } = spawnSync(process.execPath, [script], { encoding: "utf8", env });
  expect(stdout).toBe(
    "subgroup-matrix lane: did not run: JANUS_MESA_DIR=/nowhere has no libvulkan_lvp.so in usr/lib/x86_64-linux-gnu\n",
  );
  expect(status).toBe(77);
});
