/**
 * Files that other programs made (tests/data_files/make.py: pyarrow, datasets, duckdb, fastparquet, polars, Python's and GNU tar), read row for row
 * as these programs say they are; and files that are damaged, cut off or hostile.
 */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { inlineBytes } from "../../model/node/image_file.ts";
import { JanusError } from "../../engine/errors.ts";
import type { Message } from "../../model/janus/prompt.ts";
import type { RawSample } from "../../train/data/raw_sample.ts";
import { RecordError, SourceChangedError, SourceError } from "../../train/data/errors.ts";
import { indexSource, openIndex, requireKnownFields } from "../../train/node/data/index_file.ts";
import type { SourceIndex } from "../../train/node/data/index_file.ts";
import { expandShards } from "../../train/node/data/shards.ts";
import type { SourceSpec } from "../../train/node/data/sources.ts";
import { dataFile as content, dataFileNames, dataRows, tarHeader } from "../data_files.ts";
import type { Row } from "../data_files.ts";
import { isLong } from "../long.ts";
import { messagesParquet } from "../parquet_file.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-formats-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
let count = 0;
const fresh = (): string => {
  const path = join(temporary, String(count++));
  mkdirSync(path);
  return path;
};
const file = (name: string, content: string | Uint8Array): string => {
  const path = join(fresh(), name);
  writeFileSync(path, content);
  return path;
};

const hashOf = (image: string): string => createHash("sha256").update(inlineBytes(image)).digest("hex").slice(0, 16);
const textOf = ({ content: parts }: Message): string =>
  typeof parts === "string" ? parts : parts.map((part) => (part.type === "text" ? part.text : "")).join("");

function rowOf(raw: RawSample, folder: string): Row {
  if (raw.task === "gen") {
    const isInline = raw.image.startsWith("data:");
    return {
      prompt: raw.prompt,
      ...(isInline ? { image: hashOf(raw.image) } : { path: raw.image.slice(folder.length + 1) }),
    };
  }
  if ("text" in raw) return { text: raw.text };
  const turns = raw.messages.map((message) => [message.role, textOf(message)] as const);
  return { turns, images: raw.task === "und" ? raw.images.map(hashOf) : [] };
}

/** Reads all rows, the last one first. */
async function rowsOf(spec: SourceSpec, cache = fresh()): Promise<Row[]> {
  const index = await indexSource(spec, cache);
  try {
    requireKnownFields([index]);
    const read: Row[] = [];
    for (let i = index.count - 1; i >= 0; i--) read.unshift(rowOf(await index.read(i), join(spec.path, "..")));
    return read;
  } finally {
    await index.close();
  }
}

const FIELDS: Readonly<Record<string, Pick<SourceSpec, "fields" | "ignoredFields">>> = {
  "datasets_labels.parquet": { fields: { prompt: "label" } },
  "openclip.tsv": { fields: { prompt: ["caption", "title"], image: "filepath" } },
  "captions.csv": { ignoredFields: ["column 1"] },
};

const BAD = ["bomb.parquet", "names_twice.parquet", "no_rows.parquet", "not_utf8.parquet"];

type Members = readonly (readonly [path: string, content: string | Uint8Array, claim?: number, type?: string])[];

/** The bytes of a tar file: a header of the old kind for each member. `claim` is the size that its header says. */
function tar(...members: Members): Buffer {
  const parts = members.flatMap(([path, content, claim, type = "0"]) => {
    const bytes = Buffer.from(content);
    return [tarHeader(path, claim ?? bytes.length, type), bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}
const png = inlineBytes("data:;base64,iVBORw0KGgo=");

describe("files of other programs", () => {
  it.each(dataFileNames.filter((name) => !BAD.includes(name)))("%s", async (name) => {
    expect(await rowsOf({ path: file(name, content(name)), ...FIELDS[name] })).toEqual(dataRows(name));
  });
});

describe("Parquet pages that begin inside of a row", () => {
  const rows = Array.from({ length: 9 }, (_, r) =>
    [1, 2].flatMap((k) => [
      { role: "user", content: `question ${k} of ${r}` },
      { role: "assistant", content: `answer ${k} of ${r}` },
    ]),
  );

  // Of 36 messages: with 5 to a page the last page has only the end of the last row; with 3 a row is on three pages.
  it.each([1, 3, 5, 7, 35, 36])("of %d messages each are read whole", async (perPage) => {
    const index = await indexSource({ path: file("pages.parquet", messagesParquet(rows, perPage)) }, fresh());
    try {
      expect(index.count).toBe(rows.length);
      for (let i = index.count - 1; i >= 0; i--) expect(await index.read(i)).toMatchObject({ messages: rows[i] });
    } finally {
      await index.close();
    }
  });
});

describe("hostile and damaged files", () => {
  const good = [
    ["good.png", png],
    ["good.txt", "a good one"],
  ] as const;

  /** Reasons of bad records, null for good ones. */
  async function reasons(spec: SourceSpec): Promise<(string | null)[]> {
    const index = await indexSource(spec, fresh());
    try {
      const found: (string | null)[] = [];
      for (let i = 0; i < index.count; i++)
        found.push(await index.read(i).then(() => null, (error: unknown) => (error instanceof RecordError ? error.message.replace(`${spec.path}:`, "") : `not a RecordError: ${String(error)}`))); // prettier-ignore
      return found;
    } finally {
      await index.close();
    }
  }
  const refusal = async (spec: SourceSpec): Promise<string> => {
    const error = await indexSource(spec, fresh()).then(
      (index) => index.close().then(() => new Error("accepted")),
      (e: unknown) => e as Error,
    );
    expect(error).toBeInstanceOf(SourceError);
    return error.message.replace(`${spec.path}`, "FILE");
  };

  it.each<[string, Members, RegExp]>([
    ["a member that leaves the folder", [["../x.png", png], ["../x.txt", "x"]], /^\d: sample "..\/x": its member "..\/x.png" leaves the folder/], // prettier-ignore
    ["a member with an absolute path", [["/etc/x.png", png]], /leaves the folder/],
    ["a folder within that leaves it", [["a/../../x.png", png]], /leaves the folder/],
    ["no image", [["x.txt", "x"]], /sample "x": it has no image beside txt/],
    ["no text", [["x.png", png]], /sample "x": it has an image and no text \(\.txt, \.json or \.cls\)/],
    ["two members of one name", [["x.png", png], ["x.PNG", png], ["x.txt", "x"]], /two members png/], // prettier-ignore
    [
      "JSON that is none",
      [
        ["x.png", png],
        ["x.json", "{"],
      ],
      /the line is not JSON/,
    ],
    [
      "JSON that is no object",
      [
        ["x.png", png],
        ["x.json", "[1]"],
      ],
      /its \.json must be an object/,
    ],
    [
      "a text that is not UTF-8",
      [
        ["x.png", png],
        ["x.txt", Uint8Array.of(0xff, 0xfe, 0x41)],
      ],
      /its \.txt is not UTF-8/,
    ],
    [
      "a link as image",
      [
        ["x.png", "", 0, "2"],
        ["x.txt", "x"],
      ],
      /its member png is a link/,
    ],
    [
      "an unknown member",
      [
        ["x.png", png],
        ["x.txt", "x"],
        ["x.npy", "\x93NUMPY"],
      ],
      /the field "npy" is not used/,
    ],
    [
      "a class without a name",
      [
        ["x.png", png],
        ["x.cls", "7"],
      ],
      /its \.cls is the class "7", which has no name/,
    ],
    ["two texts", [["x.png", png], ["x.txt", "x"], ["x.json", '{"text":"y"}']], /the field "txt beside text" is not used/], // prettier-ignore
  ])("a tar shard with %s has one bad record", async (_, members, reason) => {
    const path = file("x.tar", tar(...good, ...members));
    const [first, second, ...rest] = await reasons({ path });
    expect([first, rest]).toEqual([null, []]);
    expect(second).toMatch(reason);
  });

  it("a key that stands twice in a shard is bad the second time", async () => {
    const path = file("x.tar", tar(...good, ["other.png", png], ["other.txt", "o"], ...good));
    expect(await reasons({ path })).toEqual([null, null, expect.stringContaining('sample "good": its key stands twice in the shard')]); // prettier-ignore
  });

  it("a sparse member that claims gigabytes is a bad record, and nothing is allocated for it", async () => {
    const map = "1\n0\n1\n".padEnd(512, "\0");
    const pax = (size: string): string =>
      ["GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=x.png", `GNU.sparse.realsize=${size}`]
        .map((text) => `${text.length + 4} ${text}\n`)
        .join("");
    const path = file("x.tar", tar(...good, ["pax", pax("99999999999"), undefined, "x"], ["y/x.png", `${map}a`], ["x.txt", "x"])); // prettier-ignore
    expect((await reasons({ path }))[1]).toMatch(/its member png has 99999999999 bytes; at most 134217728 are read/);
  });

  it("a shard that is cut off anywhere, or whose headers are damaged, is refused", async () => {
    const whole = tar(...good, ["b.png", png], ["b.txt", "b"]);
    for (let end = 512; end < whole.length - 512; end += 256)
      expect(await refusal({ path: file("x.tar", whole.subarray(0, end)) })).toMatch(
        /^FILE is cut off: .*Load it again/,
      );
    const damaged = Buffer.from(whole);
    damaged[1024]! ^= 1;
    expect(await refusal({ path: file("x.tar", damaged) })).toMatch(
      /is damaged: there is no valid tar header at byte 1024/,
    );
    expect(await refusal({ path: file("x.tar", tar(["a.png", png, 2 ** 33 - 1])) })).toMatch(/is cut off: "a.png" has 8589934591 bytes, and 1536 are there/); // prettier-ignore
    expect(await refusal({ path: file("x.tar", tar(["pax", "", 2 ** 21, "x"]).fill(0, 1024).subarray(0, 2 ** 20)) })).toMatch(/is cut off/); // prettier-ignore
    expect(await refusal({ path: file("x.tar", tar([".hidden", ""], ["README", ""])) })).toMatch(/has no samples. Not used: 1 × hidden/); // prettier-ignore
  });

  it("a Parquet file that is cut off anywhere is refused", async () => {
    const whole = content("snappy.parquet");
    for (let end = 4; end < whole.length; end += 61)
      expect(await refusal({ path: file("x.parquet", whole.subarray(0, end)) })).toMatch(/^FILE is damaged or cut off/);
    expect(await refusal({ path: file("x.parquet", "text") })).toMatch(/is not a Parquet file/);
    const encrypted = Buffer.concat([whole.subarray(0, -4), Buffer.from("PARE")]);
    expect(await refusal({ path: file("x.parquet", encrypted) })).toMatch(/is an encrypted Parquet file/);
  });

  it("a page of more than a gigabyte is refused before it is unpacked", async () => {
    expect(await refusal({ path: file("x.parquet", content("bomb.parquet")) })).toMatch(
      /a page at byte 4 has 1 values in 1200\d+ bytes; at most/,
    );
  });

  it("Parquet files without rows or with a name twice are refused, and bytes that are no text are a bad record", async () => {
    const path = (name: string): SourceSpec => ({ path: file("x.parquet", content(name)) });
    expect(await refusal(path("names_twice.parquet"))).toMatch(/two columns have the name "text"; rename one/);
    expect(await refusal(path("no_rows.parquet"))).toMatch(/^FILE has no records/);
    expect(await reasons(path("not_utf8.parquet"))).toEqual([expect.stringMatching(/^1: text must be text in UTF-8, got bytes/), null]); // prettier-ignore
  });

  it("a damaged page spoils its own rows, each with its number", async () => {
    const bytes = content("page_index.parquet");
    bytes.fill(0xff, 84, 90);
    const found = await reasons({ path: file("x.parquet", bytes) });
    expect(found.map((reason) => reason !== null)).toEqual(found.map((_, i) => i < 16));
    expect(found[15]).toMatch(/^16: its page cannot be decoded \(missing eof marker\); is the file damaged/);
  });

  it("files with changed bytes give rows or typed errors, and nothing else", async () => {
    let state = 7;
    const random = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 8;
    for (const name of ["snappy.parquet", "nested_v1_small_pages.parquet", "json_records.tar", "gnu_sparse.tar"]) {
      for (let mutant = 0; mutant < (isLong ? 400 : 20); mutant++) {
        const bytes = content(name);
        for (let change = 0; change < 1 + (mutant % 3); change++) bytes[random() % bytes.length] = random() & 255;
        const path = file(name, bytes);
        try {
          const index = await indexSource({ path }, fresh());
          for (let i = 0; i < Math.min(index.count, 50); i++)
            await index.read(i).catch((error: unknown) => expect(error).toBeInstanceOf(JanusError));
          await index.close();
        } catch (error) {
          expect(error, `${name}, mutant ${mutant}`).toBeInstanceOf(JanusError);
        }
      }
    }
  });

  it("a CSV file with wrong records has them as bad ones", async () => {
    const csv = (text: string): string => file("x.csv", text);
    const path = csv('caption,image\na,1.png\nb\n"c"d,3.png\n"e\nf",4.png\n\xff,5.png\n');
    writeFileSync(path, Buffer.from(readFileSync(path, "utf8"), "latin1"));
    expect(await reasons({ path })).toEqual([
      null,
      expect.stringMatching(/^3: the record has 1 cells and the header 2; put cells with a "," between quotes/),
      null,
      null,
      expect.stringMatching(/^7: the record is not UTF-8/),
    ]);
    expect(await refusal({ path: csv('caption,image\na,1.png\n"open,2.png\nb,3.png\n') })).toMatch(/^FILE:3: a cell that begins with a quote does not end/); // prettier-ignore
    expect(await refusal({ path: csv("a,a\n1,2\n") })).toMatch(/two columns have the name "a"; rename one of them/);
    expect(await refusal({ path: csv("TEXT,URL\nx,1.png\n") })).toMatch(/of no known kind; it has "TEXT", "URL"; .* Name other fields with data\.fields/); // prettier-ignore
    expect(await refusal({ path: csv("caption,image\n") })).toMatch(/has no records/);
  });
});

describe("files as other systems write them", () => {
  it.each([
    ["x.csv", '\ufeffimage,caption\r\n1.png,"a, ""b""\r\nc"\r\n2.png,d\r\n'],
    ["x.csv", '"image","caption"\r\n"1.png","a, ""b""\r\nc"\r\n"2.png","d"'],
    ["x.tsv", 'caption\timage\r\n"a, ""b""\r\nc"\t1.png\r\nd\t2.png\r\n'],
  ])("%s with CRLF: the line ends are no part of cells, %j", async (name, text) => {
    const rows = [{ prompt: 'a, "b"\r\nc', path: "1.png" }, { prompt: "d", path: "2.png" }]; // prettier-ignore
    expect(await rowsOf({ path: file(name, text) })).toEqual(rows);
  });

  it("texts in a shard end without their line feed, and a record may name its image with the ending in capitals", async () => {
    const members = [["a.JPG", png], ["a.txt", "\ufeffa cat\r\n"], ["b.PNG", png], ["b.json", '{"prompt":"a dog","image":"x/b.PNG"}']] as const; // prettier-ignore
    const rows = await rowsOf({ path: file("x.tar", tar(...members)) });
    expect(rows.map(({ prompt }) => prompt)).toEqual(["a cat", "a dog"]);
  });

  it("a shard whose samples are not together is refused with the reason", async () => {
    const path = file("x.tar", tar(["a.png", png], ["b.png", png], ["a.txt", "a"], ["b.txt", "b"]));
    await expect(indexSource({ path }, fresh())).rejects.toThrow(/no known kind.* The first bad one: .* its key stands twice/); // prettier-ignore
  });

  it("captions may end with .TXT and spell accented letters otherwise than their image, and none is reported as alone", async () => {
    const path = fresh();
    const names = Array.from({ length: 70 }, (_, i) => `${String(i).padStart(2, "0")}`);
    for (const name of names) for (const end of ["JPG", "txt"]) writeFileSync(join(path, `${name}.${end}`), name);
    const pairs = [["é.png".normalize("NFC"), "é.txt".normalize("NFD")], ["ü.png".normalize("NFD"), "ü.TXT".normalize("NFC")]] as const; // prettier-ignore
    for (const name of pairs.flat()) writeFileSync(join(path, name), name);
    const index = await indexSource({ path }, fresh());
    expect(index.skipped).toEqual([]);
    const found: string[] = [];
    for (let i = 0; i < index.count; i++) found.push(((await index.read(i)) as { prompt: string }).prompt);
    await index.close();
    expect(found.sort()).toEqual([...names, ...pairs.map(([, caption]) => caption)].sort());
  });
});

describe("names of fields", () => {
  const spec = (fields: SourceSpec["fields"]): SourceSpec => ({ path: file("x.csv", "TEXT,caption,file\nt,c,1.png\n"), ...(fields && { fields }) }); // prettier-ignore

  it("are mapped, and what is not used then is refused by name", async () => {
    const mapped = spec({ image: "file", prompt: ["none", "TEXT"] });
    await expect(rowsOf(mapped)).rejects.toThrow(
      /fields that are not used: "caption beside prompt" \(1 of kind pairs\)/,
    );
    expect(await rowsOf({ ...mapped, ignoredFields: ["caption beside prompt"] })).toEqual([{ prompt: "t", path: "1.png" }]); // prettier-ignore
  });

  it("that no source has are refused, and so are wrong ones", async () => {
    await expect(rowsOf({ ...spec({ image: "file", system: "SYSTEM" }), ignoredFields: ["TEXT"] })).rejects.toThrow(/data\.fields\.system is "SYSTEM": no record has this field/); // prettier-ignore
    await expect(indexSource(spec({ image: 3 } as unknown as SourceSpec["fields"]), fresh())).rejects.toThrow(/fields must be names/); // prettier-ignore
  });

  it("have indexes of their own in one cache", async () => {
    const cache = fresh();
    const path = file("x.csv", "a,caption,file_name\nA,C,1.png\n");
    expect(await rowsOf({ path, ignoredFields: ["a"] }, cache)).toEqual([{ prompt: "C", path: "1.png" }]);
    const mapped: SourceSpec = { path, fields: { prompt: "a" }, ignoredFields: ["caption beside prompt"] };
    expect(await rowsOf(mapped, cache)).toEqual([{ prompt: "A", path: "1.png" }]);
    expect(await rowsOf({ path, ignoredFields: ["a"] }, cache)).toEqual([{ prompt: "C", path: "1.png" }]);
  });
});

describe("a folder of images with captions", () => {
  const folder = (): string => {
    const root = fresh();
    mkdirSync(join(root, "more"));
    for (const [name, text] of Object.entries({
      "a.jpg": "",
      "a.txt": "a cat\n",
      "more/b.c.png": "",
      "more/b.c.txt": "a dog",
      "c.png": "",
      "d.png": "",
      "d.txt": " ",
      "alone.txt": "x",
    }))
      // prettier-ignore
      writeFileSync(join(root, name), text);
    return root;
  };

  it("is read by its pairs; a missing one is a bad record, a text alone is reported", async () => {
    const path = folder();
    const index = await indexSource({ path }, fresh());
    expect([index.count, index.kind, index.task]).toEqual([4, "pairs", "gen"]);
    expect(await index.read(0)).toEqual({ task: "gen", prompt: "a cat", image: join(path, "a.jpg") });
    expect(await index.read(3)).toEqual({ task: "gen", prompt: "a dog", image: join(path, "more", "b.c.png") });
    await expect(index.read(1)).rejects.toThrow(/:2: c\.png: it has no caption: c\.txt is not there/);
    await expect(index.read(2)).rejects.toThrow(/:3: d\.png: its caption d\.txt is empty/);
    expect(index.skipped).toEqual([{ reason: "a text without an image", count: 1, example: "alone.txt" }]);
    await index.close();
  });

  it("is another one when a caption changes, even to one of the same length", async () => {
    const [path, cache] = [folder(), fresh()];
    await (await indexSource({ path }, cache)).close();
    writeFileSync(join(path, "a.txt"), "a cow\n");
    await expect(openIndex({ path }, cache)).rejects.toThrow(/is not what was indexed/);
    expect((await rowsOfGood(path, cache))[0]).toMatchObject({ prompt: "a cow" });
  });

  async function rowsOfGood(path: string, cache: string): Promise<RawSample[]> {
    const index: SourceIndex = await indexSource({ path }, cache);
    const row = await index.read(0);
    await index.close();
    return [row];
  }
});

describe("ranges of shards", () => {
  const paths = (path: string): string[] => expandShards([{ path, task: "gen" }]).map((spec) => spec.path);

  it("stand for files in order", () => {
    expect(paths("d/{08..11}.tar")).toEqual(["d/08.tar", "d/09.tar", "d/10.tar", "d/11.tar"]);
    expect(paths("{a,b}-{0..1}.tar")).toEqual(["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]);
    expect(paths("plain.tar")).toEqual(["plain.tar"]);
    const literal = file("{0..1}.jsonl", '{"text":"a"}\n');
    expect(paths(literal)).toEqual([literal]);
  });

  it.each([
    ["{3..1}.tar", /must go up/],
    ["{x}.tar", /must be a range/],
    ["{0..999999999}.tar", /at most 100000 files/],
  ])("refuse %s", (path, reason) => {
    // prettier-ignore
    expect(() => paths(path)).toThrow(reason);
  });
});

it("a shard that changed is noticed, by size and time and then by its content", async () => {
  const [path, cache] = [file("x.tar", content("webdataset.tar")), fresh()];
  await (await indexSource({ path }, cache)).close();
  utimesSync(path, 1e9, 1e9);
  await (await openIndex({ path }, cache)).close();
  const bytes = content("webdataset.tar");
  bytes[520]! ^= 1; // in the first image
  writeFileSync(path, bytes);
  await expect(openIndex({ path }, cache)).rejects.toThrow(SourceChangedError);
});

it("names of classes are a part of the data of a shard", async () => {
  const [path, cache, classes] = [file("x.tar", content("classes.tar")), fresh(), file("names.txt", "dog a dog\n")];
  const open = (): Promise<SourceIndex> => indexSource({ path, classes }, cache);
  const first = await open();
  expect(await first.read(1)).toMatchObject({ prompt: "a dog" });
  await expect(first.read(0)).rejects.toThrow(/is the class "red ball", which has no name/);
  writeFileSync(classes, "dog a brown dog\n");
  const second = await open();
  expect(await second.read(1)).toMatchObject({ prompt: "a brown dog" });
  expect(second.hash).not.toBe(first.hash);
  await first.close();
  await second.close();
});
