/** Which adapters are software ones, and what is known of their memory, by all that platforms tell. */
import { describe, expect, it } from "vitest";
import { DEFAULT_LIMITS, capabilitiesOf } from "../../index.ts";

type Told = Record<string, unknown>;

const SOFTWARE: readonly [string, Told, Told?][] = [
  [
    "lavapipe in Dawn",
    {
      vendor: "mesa",
      architecture: "software",
      device: "llvmpipe-llvm-15-0-6-256-bits-",
      description: "llvmpipe: Mesa 25.0.7 (LLVM 15.0.6)",
      isFallbackAdapter: true,
    },
  ],
  [
    "lavapipe by its description alone",
    { vendor: "0x10005", architecture: "", device: "", description: "llvmpipe (LLVM 17.0.6, 256 bits)" },
  ],
  [
    "SwiftShader in Chrome, which names its architecture only",
    { vendor: "google", architecture: "swiftshader", device: "", description: "" },
  ],
  [
    "SwiftShader in Dawn",
    { vendor: "google", architecture: "swiftshader", device: "0xc0de", description: "SwiftShader Device (Subzero)" },
  ],
  ["SwiftShader by PCI id", { vendor: "google", architecture: "", device: "0xC0DE", description: "" }],
  ["SwiftShader by both PCI ids", { vendor: "0x1ae0", architecture: "", device: "0xc0de", description: "" }],
  [
    "a browser that hides all names but says so",
    { vendor: "", architecture: "", device: "", description: "", isFallbackAdapter: true },
  ],
  [
    "an older browser, which says so on the adapter",
    { vendor: "", architecture: "", device: "", description: "" },
    { isFallbackAdapter: true },
  ],
  [
    "WARP in Chrome",
    { vendor: "microsoft", architecture: "", device: "", description: "Microsoft Basic Render Driver" },
  ],
  ["WARP by PCI id", { vendor: "microsoft", architecture: "", device: "0x008c", description: "" }],
  ["WARP in Chrome's words", { vendor: "microsoft", architecture: "warp", device: "", description: "" }],
  ["an adapter type in words", { vendor: "x", architecture: "", device: "", description: "x", adapterType: "CPU" }],
];

const HARDWARE: readonly [string, Told][] = [
  [
    "NVIDIA",
    {
      vendor: "nvidia",
      architecture: "hopper",
      device: "0x2335",
      description: "NVIDIA H200",
      isFallbackAdapter: false,
    },
  ],
  [
    "AMD through Mesa",
    { vendor: "amd", architecture: "rdna-3", device: "0x15bf", description: "AMD Radeon 780M Graphics (RADV PHOENIX)" },
  ],
  [
    "Intel",
    { vendor: "intel", architecture: "gen-12lp", device: "0x9a49", description: "Intel(R) Iris(R) Xe Graphics" },
  ],
  [
    "Apple",
    {
      vendor: "apple",
      architecture: "metal-3",
      device: "",
      description: "Apple M1 Max",
      adapterType: "integrated GPU",
    },
  ],
  ["Qualcomm", { vendor: "qualcomm", architecture: "adreno-7xx", device: "", description: "" }],
  [
    "Microsoft's GPU in a virtual machine",
    { vendor: "microsoft", architecture: "", device: "0x008e", description: "Microsoft Hyper-V GPU" },
  ],
  ["a browser that hides everything", { vendor: "", architecture: "", device: "", description: "" }],
];

const capabilities = (info: Told, adapter: Told = {}): ReturnType<typeof capabilitiesOf> =>
  capabilitiesOf({ ...adapter, info } as unknown as GPUAdapter, [], DEFAULT_LIMITS);

describe("a software adapter is recognised", () => {
  it.each(SOFTWARE)("%s", (_, info, adapter) => {
    expect(capabilities(info, adapter).software).toBe(true);
  });
});

describe("a GPU is none", () => {
  it.each(HARDWARE)("%s", (_, info) => {
    expect(capabilities(info).software).toBe(false);
    expect(capabilitiesOf(info as unknown as GPUAdapterInfo, [], DEFAULT_LIMITS).software).toBe(false);
  });
});

describe("the GPU's own memory", () => {
  it("is its largest device-local heap", () => {
    const memoryHeaps = [
      { size: 16e9, properties: 2 },
      { size: 8e9, properties: 1 },
      { size: 256e6, properties: 7 },
    ];
    expect(capabilities({ vendor: "nvidia", memoryHeaps }).memoryBytes).toBe(8e9);
  });
  it.each([[{}], [{ memoryHeaps: [] }], [{ memoryHeaps: [{ size: 1e9, properties: 2 }] }]])(
    "is unknown for %j",
    (told) => {
      expect(capabilities({ vendor: "nvidia", ...told }).memoryBytes).toBeNull();
    },
  );
});
