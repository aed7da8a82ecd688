// Wrong JSON, safetensors and index files, each with the words that its error must say.
import { ascii, concat, safetensors } from "./files.ts";

export type HostileFile = readonly [what: string, file: Uint8Array, message: RegExp];

const BIG = "1".repeat(500);

export const hostileJson: readonly HostileFile[] = [
  ["nothing", ascii(""), /ends early/],
  ["white space only", ascii(" \n"), /ends early/],
  ["a byte order mark", concat([0xef, 0xbb, 0xbf], ascii("{}")), /unexpected/],
  ["two values", ascii("{} {}"), /more after the end/],
  ["an open object", ascii('{"a":1'), /ends early/],
  ["an open array", ascii("[1,2"), /ends early/],
  ["an open string", ascii('"abc'), /not closed/],
  ["a string that ends in a backslash", ascii('"abc\\'), /not closed/],
  ["a key without quotes", ascii("{a:1}"), /key in quotes/],
  ["single quotes", ascii("{'a':1}"), /key in quotes/],
  ["no colon", ascii('{"a" 1}'), /":" after the key "a" is missing/],
  ["a comma before the end of an object", ascii('{"a":1,}'), /comma before the end/],
  ["a comma before the end of an array", ascii("[1,]"), /comma before the end/],
  ["no comma", ascii("[1 2]"), /"," or "\]" is missing/],
  ["a duplicate key", ascii('{"a":1,"a":2}'), /"a" stands twice/],
  ["a duplicate key by escape", ascii('{"a":1,"\\u0061":2}'), /"a" stands twice/],
  ["a comment", ascii('{/**/"a":1}'), /key in quotes/],
  ["NaN", ascii("[NaN]"), /unexpected "N"/],
  ["Infinity", ascii("[-Infinity]"), /not a number/],
  ["a number with a leading zero", ascii("[01]"), /not a number/],
  ["a number with a plus", ascii("[+1]"), /not a number/],
  ["a number with a bare point", ascii("[1.]"), /not a number/],
  ["a number with two points", ascii("[1.2.3]"), /not a number/],
  ["hexadecimal", ascii("[0x10]"), /"," or "\]" is missing/],
  ["an integer beyond 2^53", ascii("[9007199254740993]"), /beyond 2\^53/],
  ["a negative integer beyond 2^53", ascii("[-9007199254740993]"), /beyond 2\^53/],
  ["a number beyond f64", ascii("[1e400]"), /out of range/],
  ["a number of 500 digits", ascii(`[${BIG}]`), /more than 400 characters/],
  ["a control character in a string", ascii('"a\nb"'), /control character/],
  ["an unknown escape", ascii('"\\x41"'), /unknown escape/],
  ["a short \\u", ascii('"\\u12"'), /four hexadecimal/],
  ["half of a surrogate pair", ascii('"\\ud83d"'), /half of a surrogate/],
  ["the wrong half first", ascii('"\\ude00\\ud83d"'), /half of a surrogate/],
  ["a string that is not UTF-8", concat(ascii('"'), [0xff, 0xfe], ascii('"')), /not UTF-8/],
  ["an overlong UTF-8 form", concat(ascii('"'), [0xc0, 0xaf], ascii('"')), /not UTF-8/],
  ["a misspelt word", ascii("nul"), /not null/],
  ["a word with an end of its own", ascii("truex"), /more after the end/],
  ["65 arrays deep", ascii("[".repeat(65) + "]".repeat(65)), /nested more than 64/],
  ["a million arrays deep", ascii("[".repeat(1_000_000)), /nested more than 64/],
  ["a million objects deep", ascii('{"a":'.repeat(1_000_000)), /nested more than 64/],
];

const tensor = (over: Record<string, unknown> = {}): string =>
  JSON.stringify({ dtype: "BF16", shape: [2], data_offsets: [0, 4], ...over });
const one = (over: Record<string, unknown>, dataBytes = 4): Uint8Array =>
  safetensors(`{"t":${tensor(over)}}`, dataBytes);
const two = (a: [number, number], b: [number, number], dataBytes: number): Uint8Array => {
  const of = (range: [number, number]): string =>
    tensor({ dtype: "U8", shape: [range[1] - range[0]], data_offsets: range });
  return safetensors(`{"a":${of(a)},"b":${of(b)}}`, dataBytes);
};

export const hostileSafetensors: readonly HostileFile[] = [
  ["an empty file", new Uint8Array(0), /0 bytes are too few/],
  ["seven bytes", new Uint8Array(7), /7 bytes are too few/],
  ["a header of 0 bytes", safetensors(""), /ends early/],
  ["a header longer than the file", safetensors("{}", 0, 1000), /header of 1000 bytes in a file of 10/],
  ["a header of 2^53 bytes", safetensors("{}", 0, 2 ** 53), /at most 100000000/],
  ["a header of 2^64 − 1 bytes", safetensors("{}", 0, 2n ** 64n - 1n), /at most 100000000/],
  ["a header of 100 MB and a byte", safetensors("{}", 0, 100_000_001), /at most 100000000/],
  ["a header length that wraps to 2 in 32 bits", safetensors("{}", 0, 2n ** 32n + 2n), /at most 100000000/],
  ["an array as the header", safetensors("[]"), /an object is missing/],
  ["a string as the header", safetensors('"a"'), /an object is missing/],
  ["text that is not JSON", safetensors("hello"), /an object is missing/],
  ["zeros as the header", safetensors(new Uint8Array(16)), /an object is missing/],
  ["a NUL after the header", safetensors("{}\0"), /more after the end/],
  ["two headers", safetensors("{}{}"), /more after the end/],
  ["a tensor twice", safetensors(`{"t":${tensor()},"t":${tensor()}}`, 4), /"t" stands twice/],
  ["__metadata__ twice", safetensors('{"__metadata__":{},"__metadata__":{}}'), /"__metadata__" stands twice/],
  ["a number in __metadata__", safetensors('{"__metadata__":{"a":1}}'), /a string is missing/],
  ["an object in __metadata__", safetensors('{"__metadata__":{"a":{}}}'), /a string is missing/],
  ["an array as __metadata__", safetensors('{"__metadata__":[]}'), /an object is missing/],
  [
    "5000 entries in __metadata__",
    safetensors(
      JSON.stringify({ __metadata__: Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`k${i}`, ""])) }),
    ),
    /more than 4096 entries/,
  ],
  ["a tensor named __proto__", safetensors(`{"__proto__":${tensor()}}`, 4), /"__proto__", a name that JavaScript/],
  [
    "a tensor named constructor",
    safetensors(`{"constructor":${tensor()}}`, 4),
    /"constructor", a name that JavaScript/,
  ],
  ["a tensor without a name", safetensors(`{"":${tensor()}}`, 4), /without a name/],
  ["a name of 2000 characters", safetensors(`{"${"x".repeat(2000)}":${tensor()}}`, 4), /name of 2000 characters/],
  [
    "20,000 tensors",
    safetensors(
      `{${Array.from({ length: 20_000 }, (_, i) => `"${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`).join()}}`,
    ),
    /more than 16384 tensors/,
  ],
  ["null for a tensor", safetensors('{"t":null}'), /an object is missing/],
  [
    "a field twice",
    safetensors('{"t":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    /"dtype" stands twice/,
  ],
  ["an unknown field", one({ extra: 1 }), /unknown field "extra" of tensor "t"/],
  [
    "__proto__ as a field",
    safetensors('{"t":{"__proto__":{},"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    /unknown field "__proto__"/,
  ],
  ["no dtype", safetensors('{"t":{"shape":[0],"data_offsets":[0,0]}}'), /dtype of tensor "t" is missing/],
  ["no shape", safetensors('{"t":{"dtype":"U8","data_offsets":[0,0]}}'), /shape of tensor "t" is missing/],
  ["no data_offsets", safetensors('{"t":{"dtype":"U8","shape":[0]}}'), /data_offsets of tensor "t" is missing/],
  ["an unknown dtype", one({ dtype: "BF17" }), /dtype "BF17" of tensor "t" is not known/],
  ["a dtype in lower case", one({ dtype: "bf16" }), /dtype "bf16" of tensor "t" is not known/],
  ["toString as the dtype", one({ dtype: "TOSTRING" }), /not known/],
  ["a number as the dtype", one({ dtype: 16 }), /a string is missing/],
  ["a dimension below 0", one({ shape: [-2] }), /dimension 0 of tensor "t" is -2/],
  ["a dimension of 1.5", one({ shape: [1.5] }), /dimension 0 of tensor "t" is 1.5/],
  [
    "a dimension of 2e0",
    safetensors('{"t":{"dtype":"U8","shape":[2e0],"data_offsets":[0,2]}}', 2),
    /is 2e0; a whole number/,
  ],
  ["a dimension of −0", safetensors('{"t":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), /is -0; a whole number/],
  [
    "a dimension beyond 2^53",
    safetensors('{"t":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,0]}}'),
    /more than 2\^53/,
  ],
  ["a string as a dimension", one({ shape: ["2"] }), /no number|unexpected/],
  [
    "a product that overflows to 0 in 64 bits",
    one({ shape: [2 ** 32, 2 ** 32], data_offsets: [0, 0] }, 0),
    /too many elements/,
  ],
  [
    "a product that overflows f64",
    one({ shape: Array.from({ length: 32 }, () => 2 ** 52), data_offsets: [0, 0] }, 0),
    /too many elements/,
  ],
  [
    "33 dimensions",
    one({ shape: Array.from({ length: 33 }, () => 1), data_offsets: [0, 2] }, 2),
    /more than 32 dimensions/,
  ],
  ["an object as the shape", one({ shape: {} }), /an array is missing/],
  ["one offset", one({ data_offsets: [0] }), /must be \[begin, end\]/],
  ["three offsets", one({ data_offsets: [0, 4, 4] }), /more than 2 numbers/],
  ["offsets in the wrong order", one({ data_offsets: [4, 0] }), /must be \[begin, end\]/],
  ["a negative offset", one({ data_offsets: [-4, 0] }), /is -4; a whole number/],
  ["fewer bytes than the shape", one({ data_offsets: [0, 2] }, 2), /needs 4 bytes, its data_offsets hold 2/],
  ["more bytes than the shape", one({ data_offsets: [0, 8] }, 8), /needs 4 bytes, its data_offsets hold 8/],
  ["the bytes of another dtype", one({ dtype: "F32" }), /needs 8 bytes, its data_offsets hold 4/],
  ["data cut off", one({}, 3), /the tensors end at byte \d+, the file at/],
  ["data beyond the tensors", one({}, 5), /the tensors end at byte \d+, the file at/],
  ["data without tensors", safetensors("{}", 1), /the tensors end at byte 10, the file at 11/],
  ["a tensor that begins late", one({ data_offsets: [2, 6] }, 6), /2 unused bytes before tensor "t"/],
  ["a gap", two([0, 4], [6, 8], 8), /2 unused bytes before tensor "b"/],
  ["an overlap", two([0, 4], [2, 6], 6), /tensor "b" overlaps/],
  ["the same bytes twice", two([0, 4], [0, 4], 4), /overlaps/],
  ["one within the other", two([0, 8], [2, 4], 8), /tensor "b" overlaps/],
  ["an empty tensor within another", two([0, 8], [4, 4], 8), /tensor "b" overlaps/],
  ["offsets beyond the file", one({ shape: [2 ** 40], data_offsets: [0, 2 ** 41] }), /the tensors end at byte/],
  ["a deeply nested header", safetensors('{"t":'.repeat(500_000)), /key|unknown field|missing/],
  ["an escape sequence as a name", safetensors(`{"\\u001b[2J":${tensor({ data_offsets: [0, 8] })}}`, 8), /\\u001b\[2J/],
];

const index = (map: unknown): Uint8Array => ascii(JSON.stringify({ metadata: { total_size: 4 }, weight_map: map }));

export const hostileIndex: readonly HostileFile[] = [
  ["nothing", ascii(""), /ends early/],
  ["an array", ascii("[]"), /an object is missing/],
  ["no weight_map", ascii('{"metadata":{}}'), /no weight_map/],
  ["an empty weight_map", index({}), /no weight_map in it, or it is empty/],
  ["an array as weight_map", index([]), /an object is missing/],
  ["two weight_maps", ascii('{"weight_map":{"a":"a.bin"},"weight_map":{"b":"b.bin"}}'), /"weight_map" stands twice/],
  ["a tensor twice", ascii('{"weight_map":{"a":"a.bin","a":"b.bin"}}'), /"a" stands twice/],
  ["a number for a file", index({ a: 1 }), /a string is missing/],
  ["a file above the folder", index({ a: "../model.safetensors" }), /not the name of a weight file/],
  ["a file in a folder", index({ a: "x/model.safetensors" }), /not the name of a weight file/],
  ["an absolute path", index({ a: "/etc/passwd" }), /not the name of a weight file/],
  ["a path of Windows", index({ a: "..\\model.safetensors" }), /not the name of a weight file/],
  ["a hidden file", index({ a: ".model.safetensors" }), /not the name of a weight file/],
  ["a file of another kind", index({ a: "config.json" }), /not the name of a weight file/],
  ["a NUL in a name", index({ a: "a\0.bin" }), /not the name of a weight file/],
  [
    "20,000 tensors",
    index(Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`t${i}`, "a.bin"]))),
    /more than 16384 tensors/,
  ],
];
