/** Declaring kernels and specialising their source: constants, aliases, libraries, and what is refused. */
import { describe, expect, it } from "vitest";
import { ArgumentError, KernelError, declaredKernels, kernel, library, loadKernels, specialise } from "../../index.ts";
import type { Kernel, Library } from "../../index.ts";
import { packParams, variantKey } from "../../engine/kernel.ts";

const scale = library("test_scale", "const FACTOR_T = 2.0;\nfn scale_T(v: f32) -> f32 { return v * FACTOR_T; }");
const common = library("test_common", "fn common(v: f32) -> f32 { return v; }");
const shift = library(
  "test_shift",
  "//#use test_common\nconst FACTOR_T = 1.0;\nfn scale_T(v: f32) -> f32 { return v + common(FACTOR_T); }",
  [common],
);

const text = `// A kernel of the tests.
enable f16;
//#use test_scale as s
//#use test_scale as t
//#use test_common
//#use test_common
const TILE = 8u; // rows
const DEPTH: u32 = 4;
const EPS = 1e-5;
const SHIFT = -3;
const FAST = false;
const HALF: f32 = 1;
const MASK = 0xffu;
const DOT = 2.;
alias Row = vec4<f32>;
@group(0) @binding(0) var<storage, read_write> y: array<Row>;
fn tile() -> u32 { const TILE = 1u; return TILE; }
@compute @workgroup_size(TILE) fn test_kernel() { y[0] = Row(scale_s(EPS) + scale_t(HALF)); }
`;
const k = kernel("test_kernel", text, { y: "write" }, {}, [scale, common]);

/** The lines of the specialised source that start with `const`, `alias`, `fn` or `enable`. */
const lines = (source: string): string[] => source.split("\n").filter((l) => /^(const|alias|fn|enable)/.test(l));

describe("constants", () => {
  it("keep their kind: unsigned, whole, float, boolean, a type", () => {
    const source = specialise(k, {
      TILE: 16,
      DEPTH: 2,
      EPS: 1,
      SHIFT: -5,
      FAST: true,
      HALF: 3,
      MASK: 9,
      DOT: 4,
      Row: "vec4<f16>",
    });
    expect(lines(source)).toEqual(
      expect.arrayContaining([
        "const TILE = 16u; // rows",
        "const DEPTH: u32 = 2u;",
        "const EPS = 1.0;",
        "const SHIFT = -5;",
        "const FAST = true;",
        "const HALF: f32 = 3.0;",
        "const MASK = 9u;",
        "const DOT = 4.0;",
        "alias Row = vec4<f16>;",
      ]),
    );
  });
  it("keep fractions and exponents as floats", () => {
    expect(specialise(k, { EPS: 0.25 })).toContain("const EPS = 0.25;");
    expect(specialise(k, { EPS: 1e-7 })).toContain("const EPS = 1e-7;");
    expect(specialise(k, { EPS: 1e22 })).toContain("const EPS = 1e+22;");
  });
  it("stay as they are when nothing is asked, also in functions", () => {
    const source = specialise(k, { TILE: 16 });
    expect(source).toContain("const DEPTH: u32 = 4;");
    expect(source).toContain("{ const TILE = 1u; return TILE; }");
    expect(specialise(k)).toContain("const TILE = 8u; // rows");
  });
  it("of a library are reached by their name in the slot", () => {
    const source = specialise(k, { FACTOR_s: 5 });
    expect(source).toContain("const FACTOR_s = 5.0;");
    expect(source).toContain("const FACTOR_t = 2.0;");
  });
  it("not known are refused by name", () => {
    expect(() => specialise(k, { TYLE: 16 })).toThrow(KernelError);
    expect(() => specialise(k, { TYLE: 16 })).toThrow(
      'kernel "test_kernel": constants must name a top-level const or alias; got TYLE',
    );
  });
  it("of the wrong kind are refused", () => {
    expect(() => specialise(k, { TILE: 1.5 })).toThrow(/constant TILE: an integer constant must be whole; got 1\.5/);
    expect(() => specialise(k, { TILE: -1 })).toThrow(/constant TILE: an unsigned constant must be at least 0; got -1/);
    expect(() => specialise(k, { EPS: NaN })).toThrow(ArgumentError);
    expect(() => specialise(k, { EPS: Infinity })).toThrow(/constant EPS: constants must be finite; got Infinity/);
  });
});

describe("libraries", () => {
  it("fill their slots under names of their own, each once a slot", () => {
    const source = specialise(k);
    expect(lines(source).filter((l) => l.startsWith("fn scale"))).toEqual([
      "fn scale_s(v: f32) -> f32 { return v * FACTOR_s; }",
      "fn scale_t(v: f32) -> f32 { return v * FACTOR_t; }",
    ]);
    expect(source.match(/fn common/g)).toHaveLength(1);
    expect(source).not.toContain("//#use");
  });
  it("are swapped slot by slot, and bring what they use", () => {
    const source = specialise(k, {}, { t: shift });
    expect(source).toContain("fn scale_s(v: f32) -> f32 { return v * FACTOR_s; }");
    expect(source).toContain("fn scale_t(v: f32) -> f32 { return v + common(FACTOR_t); }");
    expect(source.match(/fn common/g)).toHaveLength(1);
  });
  it("not known, or for a slot that is not there, are refused", () => {
    expect(() => specialise(k, {}, { u: scale })).toThrow("slots must be among s, t; got u.");
  });
  it("that the kernel was not handed are refused, by what it has", () => {
    expect(() => specialise(k, {}, { s: "f32" })).toThrow(
      'dtype f32 for slot s must be one of the libraries of "test_kernel"; got test_scale, test_common. Pass it in the declaration of "test_kernel".',
    );
    const bare = kernel("test_bare", "//#use test_scale as s\n//#use test_common\nfn test_bare() {}", { y: "write" });
    expect(() => specialise(bare)).toThrow(
      'library "test_scale" for slot s must be one of the libraries of "test_bare"; got none',
    );
    expect(() => specialise(bare, {}, { s: shift })).toThrow(
      'library "test_common" must be one of the libraries of "test_bare"; got none',
    );
    const needs = library("test_needs", "//#use test_common\n");
    const indirect = kernel("test_indirect", "//#use test_needs\nfn test_indirect() {}", { y: "write" }, {}, [
      needs,
      common,
    ]);
    expect(() => specialise(indirect)).toThrow('library "test_common" must be one of the libraries of "test_needs"');
  });
  it("may hold the parameters and bindings of a family, once whoever includes them", () => {
    const shared = library(
      "test_family",
      "//#use test_scale as x\nstruct Params { n: u32 }\n@group(0) @binding(0) var<uniform> params: Params;\n",
      [scale],
    );
    const family = kernel(
      "test_family_kernel",
      "//#use test_family\n//#use test_family\nfn test_family_kernel() {}",
      {},
      { n: "u32" },
      [shared],
    );
    expect(specialise(family).match(/struct Params/g)).toHaveLength(1);
    expect(specialise(family, { FACTOR_x: 3 })).toContain("const FACTOR_x = 3.0;");
  });
  it("may bring directives, which come first and once", () => {
    const directive = library("test_directive", "enable f16;\nfn half_T(v: f32) -> f32 { return f32(f16(v)); }");
    const source = specialise(k, {}, {});
    expect(source.indexOf("enable f16;")).toBe(0);
    const other = kernel(
      "test_directives",
      "//#use test_directive as a\n//#use test_directive as b\nrequires x;\nfn test_directives() {}",
      { y: "write" },
      {},
      [directive],
    );
    expect(specialise(other).match(/enable f16;/g)).toHaveLength(1);
    expect(specialise(other).startsWith("enable f16;\nrequires x;\n")).toBe(true);
  });
});

describe("declarations", () => {
  it("are the same if they are repeated, and replace each other under a name if they differ", () => {
    const named = (): unknown => declaredKernels().filter((d) => d.name === "test_again");
    const declare = (source: string, included: readonly Library[] = []): Kernel =>
      kernel("test_again", source, { y: "write" }, { n: "u32" }, included);
    const first = declare("const A = 1;");
    expect(declare("const A = 1;")).toBe(first);
    expect(variantKey(first, { A: 2 }, undefined)).toBe("test_again A=2");

    const second = declare("const A = 3;");
    expect(second).not.toBe(first);
    expect(named()).toEqual([second]);
    expect(specialise(second)).toContain("const A = 3;");
    expect(specialise(first)).toContain("const A = 1;");
    expect(variantKey(second, { A: 2 }, undefined)).toBe("test_again#1 A=2");

    // What a library says, and what a kernel binds, is of the source too.
    const part = library("test_part", "const B = 1;");
    expect(library("test_part", "const B = 1;")).toBe(part);
    const including = declare("//#use test_part", [part]);
    const other = library("test_part", "const B = 2;");
    expect(other).not.toBe(part);
    expect(specialise(including)).toContain("const B = 1;");
    expect(specialise(declare("//#use test_part", [other]))).toContain("const B = 2;");
    expect(variantKey(first, {}, { x: other })).toBe("test_again x:test_part#1");
    expect(kernel("test_again", "//#use test_part", { z: "write" }, { n: "u32" }, [other]).bindings).toEqual({
      z: "write",
    });
  });
  it("lay out their parameters as WGSL does", () => {
    const laid = kernel(
      "test_layout",
      "",
      { y: "write" },
      { a: "u32", v: "vec4f", b: "f32", c: "i32", w: "vec4u", d: "u32" },
    );
    expect(laid.layout).toEqual({ offsets: { a: 0, v: 16, b: 32, c: 36, w: 48, d: 64 }, bytes: 80 });
    expect(k.layout.bytes).toBe(0);
    const packed = packParams(laid as never, { a: 1, v: [1, 2, 3, 4], b: 0.5, c: -2, w: [5, 6, 7, 8], d: 9 })!;
    expect(packed).toHaveLength(20);
    expect([packed[0], packed[9]! | 0, ...packed.slice(12, 17)]).toEqual([1, -2, 5, 6, 7, 8, 9]);
    expect([...new Float32Array(packed.buffer, 16, 5)]).toEqual([1, 2, 3, 4, 0.5]);
    expect(packParams(k as never, {})).toBeNull();
  });
  it("want every parameter", () => {
    expect(() =>
      packParams(
        declaredKernels().find((d) => d.name === "test_layout")!,
        { a: 1 },
      ),
    ).toThrow('kernel "test_layout": params must have a, v, b, c, w, d; got none for v');
  });
  it("refuse more numbers than a parameter has", () => {
    const laid = declaredKernels().find((d) => d.name === "test_layout")!;
    const all = { a: 1, v: [1, 2, 3, 4, 5], b: 0, c: 0, w: [5, 6, 7, 8], d: 9 };
    expect(() => packParams(laid, all)).toThrow("v must have at most 4 numbers, it is a vec4f; got 5");
    expect(() => packParams(laid, { ...all, v: [1], d: [1, 2] })).toThrow("d must have at most 1 numbers");
  });
  it("whose file is not there say so", async () => {
    const missing = kernel("test_missing", new URL("./missing.wgsl", import.meta.url), { y: "write" });
    expect(() => specialise(missing)).toThrow(/missing\.wgsl/);
    await expect(loadKernels()).rejects.toThrow(KernelError);
    await expect(loadKernels()).rejects.toThrow(/the WGSL of "test_missing" must be readable; got .*missing\.wgsl/);
  });
});
