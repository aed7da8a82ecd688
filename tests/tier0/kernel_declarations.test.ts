/**
 * Every declared kernel against its WGSL file, as wgsl_reflect reads it: bindings, parameters, entry point, limits. What is launched
 * in earnest, and races, are in kernel_variants.test.ts.
 */
import { readFileSync, readdirSync } from "node:fs";
import { basename } from "node:path";
import { describe, expect, it } from "vitest";
import { F, declaredKernels, declaredLibraries, specialise } from "../../index.ts";
import type { Kernel } from "../../index.ts";
import { SUBGROUPS_ONLY, reflect, usesSubgroups } from "../reflection.ts";
import type { Reflection } from "../reflection.ts";

const kernels = declaredKernels();

/** Kernels that wgsl_reflect cannot parse, and why. They are compiled by Dawn in compile.test.ts all the same. */
const UNPARSED: Readonly<Record<string, string>> = {};

describe.each(kernels.filter((k) => !(k.name in UNPARSED)).map((k) => [k.name, k] as const))(
  "kernel %s",
  (name, kernel: Kernel) => {
    const source = specialise(kernel);
    let parsed: Reflection | undefined;
    const seen = (): Reflection => (parsed ??= reflect(source));

    it("has one entry point, named as the file", () => {
      expect(seen().entryPoints).toEqual([name]);
      if (kernel.url) expect(basename(kernel.url.pathname)).toBe(`${name}.wgsl`);
    });

    it("binds what it declares", () => {
      const declared = Object.entries(kernel.bindings).map(([binding, access], i) => ({
        name: binding,
        group: 0,
        binding: i,
        access: access === "read" ? "read" : "read_write",
      }));
      if (kernel.layout.bytes) declared.push({ name: "params", group: 0, binding: declared.length, access: "uniform" });
      expect(seen().bindings).toEqual(declared);
    });

    it("lays its parameters out as declared", () => {
      if (!kernel.layout.bytes) return expect(seen().params).toBeNull();
      const offsets: Readonly<Record<string, number>> = kernel.layout.offsets;
      expect(seen().params).toMatchObject({
        struct: "Params",
        variable: "params",
        members: Object.entries(kernel.params).map(([member, type]) => ({
          name: member,
          type,
          offset: offsets[member],
        })),
      });
      // The uniform buffer is padded to whole vec4.
      expect(Math.ceil(seen().params!.bytes / 16) * 16).toBe(kernel.layout.bytes);
    });

    it("runs within the limits of every WebGPU device by default", () => {
      const [x, y, z] = seen().workgroupSize;
      expect(x * y * z).toBeGreaterThan(0);
      expect(x * y * z).toBeLessThanOrEqual(256);
      expect(z).toBeLessThanOrEqual(64);
      expect(seen().workgroupBytes).toBeLessThanOrEqual(16384);
      if (source.includes("var<workgroup>")) expect(seen().workgroupBytes).toBeGreaterThan(0);
      expect(Object.keys(kernel.bindings).length).toBeLessThanOrEqual(8);
      expect(/^enable\b/m.test(source) || usesSubgroups(source), "the default needs a feature").toBe(
        name in SUBGROUPS_ONLY,
      );
    });
  },
);

describe("the lists", () => {
  it("every .wgsl file of engine/ and kernels/ is declared by a kernel or a library, and every file that is declared is there", () => {
    const folders = ["engine", "kernels"].map((name) => new URL(`../../${name}/`, import.meta.url));
    const files = folders.flatMap((folder) =>
      readdirSync(folder, { recursive: true, encoding: "utf8" })
        .filter((f) => f.endsWith(".wgsl"))
        .map((f) => new URL(f, folder).href),
    );
    // Those of the bench may be there too, if its tests ran in this process.
    const declared = [...kernels, ...declaredLibraries()]
      .flatMap(({ url }) => (url ? [url.href] : []))
      .filter((href) => folders.some((folder) => href.startsWith(folder.href)));
    expect(files.toSorted()).toEqual(declared.toSorted());
  });

  it("libraries lie in the lib/ of the family that declares them, in files of their names", () => {
    for (const { name, url } of declaredLibraries())
      if (url) expect(url.pathname.endsWith(`/lib/${name}.wgsl`), url.pathname).toBe(true);
  });

  it("kernels and libraries name in //#use what they are handed, and are handed no more than that and what is standard", () => {
    const standard = F.libraries.standard.map(({ name }) => name);
    for (const { name, url, libraries } of [...kernels, ...declaredLibraries()]) {
      if (!url) continue;
      const named = [...readFileSync(url, "utf8").matchAll(/^\/\/#use (\S+)/gm)].map(([, library]) => library!);
      const handed = libraries.map((l) => l.name);
      expect(
        named.filter((l) => !handed.includes(l)),
        `${name} names what it is not handed`,
      ).toEqual([]);
      const extra = handed.filter((l) => !named.includes(l) && !standard.includes(l));
      expect(extra, `${name} is handed what it does not name`).toEqual([]);
    }
  });

  it.each(Object.keys(UNPARSED))("%s is still beyond wgsl_reflect", (name) => {
    expect(() => reflect(specialise(kernels.find((k) => k.name === name)!))).toThrow(Error);
  });
});
