/**
 * The kernels of attention and which of them run: "tiled" (workgroup memory) on GPUs, "register" (no workgroup memory, one subgroup a
 * tile) on software Vulkan, "naive" (one invocation a row) as the reference.
 */
import { ArgumentError, kernel, library } from "../engine/index.ts";
import type { Constants, Device, Kernel, Uses } from "../engine/index.ts";
import "./lib.ts";
import { forcedVariant } from "./variants.ts";

library("attention_keys", new URL("./lib/attention_keys.wgsl", import.meta.url));
library("attention_tile", new URL("./lib/attention_tile.wgsl", import.meta.url));
library("attention_lanes_none", new URL("./lib/attention_lanes_none.wgsl", import.meta.url));
library("attention_lanes_subgroup", new URL("./lib/attention_lanes_subgroup.wgsl", import.meta.url));

const sizes = { rows: "u32", queries: "u32", keys: "u32", heads: "u32", group: "u32", batch: "u32", first: "u32", flags: "u32", slices: "u32", granules: "u32", scale: "f32" } as const;
const views = { q: "vec4u", k: "vec4u", v: "vec4u" } as const;

const forward = (name: string, url: URL) =>
  kernel(name, url, { q: "read", k: "read", v: "read", mask: "read", o: "write", lse: "write" }, { ...sizes, ...views, o: "vec4u", lse: "vec4u" });
const query = (name: string, url: URL) =>
  kernel(name, url, { q: "read", k: "read", v: "read", g: "read", stats: "read", mask: "read", dq: "write" }, { ...sizes, slope: "f32", ...views, g: "vec4u", dq: "vec4u", stats: "vec4u" });
const key = (name: string, url: URL) =>
  kernel(
    name,
    url,
    { q: "read", k: "read", v: "read", g: "read", stats: "read", mask: "read", dk: "write", dv: "write" },
    { ...sizes, slope: "f32", ...views, g: "vec4u", dk: "vec4u", dv: "vec4u", stats: "vec4u" },
  );

const naive = {
  forward: forward("attention_naive", new URL("./attention_naive.wgsl", import.meta.url)),
  query: query("attention_naive_query", new URL("./attention_naive_query.wgsl", import.meta.url)),
  key: key("attention_naive_key", new URL("./attention_naive_key.wgsl", import.meta.url)),
};

const register = {
  forward: forward("attention_register", new URL("./attention_register.wgsl", import.meta.url)),
  query: query("attention_register_query", new URL("./attention_register_query.wgsl", import.meta.url)),
  key: key("attention_register_key", new URL("./attention_register_key.wgsl", import.meta.url)),
};

interface Kernels {
  readonly forward: typeof naive.forward;
  readonly query: typeof naive.query;
  readonly key: typeof naive.key;
}

/** How the work of one kernel is cut up. */
export interface Split {
  readonly constants: Constants;
  /** Workgroups that share a tile of rows, each computing a part of the columns. */
  readonly slices: number;
  /** For `heads` heads of `tokens` rows each: what the kernel's `rows` counts, and the workgroups. */
  readonly work: (heads: number, tokens: number) => { readonly rows: number; readonly groups: number };
}

export interface Variant extends Kernels {
  readonly use: Uses;
  /** Of the forward and the query kernel, and of the key kernel, which has two results. */
  readonly split: Split;
  readonly keySplit: Split;
}

/**
 * Tiles of 8 rows whose columns `lanes` invocations share, up to `most` granules each; larger heads take several tiles, each with the
 * scores anew.
 */
function register8(d: number, lanes: number, most: number): Split {
  const chunks = Math.ceil(d / 4 / lanes);
  const slices = Math.ceil(chunks / most);
  // 1, 2 or 4: few compiled variants.
  const each = 2 ** Math.ceil(Math.log2(Math.ceil(chunks / slices)));
  const workgroup = lanes === 1 ? 64 : lanes;
  const tiles = (heads: number, tokens: number): number => heads * Math.ceil(tokens / 8) * slices;
  return {
    constants: { WORKGROUP: workgroup, LANES: lanes, CHUNKS: each },
    slices,
    work: (heads, tokens) => ({ rows: tiles(heads, tokens), groups: Math.ceil((tiles(heads, tokens) * lanes) / workgroup) }),
  };
}

/** Lanes of a task that a subgroup shares: a fixed subgroup size makes a workgroup of that size one subgroup; else 1. */
export function lanesOf(device: Device): number {
  const { subgroups } = device.capabilities;
  return subgroups && subgroups[0] === subgroups[1] && forcedVariant("attention") !== "register-single" ? subgroups[0] : 1;
}

/** The kernels for heads of `d` elements on `device`. */
export function variantOf(device: Device, d: number): Variant {
  const lanes = lanesOf(device);
  const name = forcedVariant("attention") ?? (device.capabilities.software ? "register" : "naive");
  switch (name) {
    case "naive": {
      const split: Split = { constants: { D4: d / 4 }, slices: 1, work: (heads, tokens) => ({ rows: heads * tokens, groups: Math.ceil((heads * tokens) / 64) }) };
      return { ...naive, use: {}, split, keySplit: split };
    }
    case "register":
    case "register-single":
      return { ...register, use: { s: lanes === 1 ? "attention_lanes_none" : "attention_lanes_subgroup" }, split: register8(d, lanes, 4), keySplit: register8(d, lanes, 2) };
    default:
      throw new ArgumentError(`attention: no variant "${name}"; there are naive, register, register-single, tiled`);
  }
}
