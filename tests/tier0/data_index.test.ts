/** Indexes: every record found by its number, changes of a source noticed, files that are no JSONL refused, large files in chunks. */
import { createHash } from "node:crypto";
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { FileError } from "../../model/node/files.ts";
import { RecordError, SourceChangedError, SourceError } from "../../train/data/errors.ts";
import { indexSource, noticesOf, openIndex, requireKnownFields } from "../../train/node/data/index_file.ts";
import type { SourceIndex } from "../../train/node/data/index_file.ts";
import { countTokens } from "../../train/node/data/token_counts.ts";
import type { SourceSpec } from "../../train/node/data/sources.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-index-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
let count = 0;
function folder(): string {
  const path = join(temporary, String(count++));
  mkdirSync(path);
  return path;
}
function file(content: string | Uint8Array, name = "data.jsonl"): string {
  const path = join(folder(), name);
  writeFileSync(path, content);
  return path;
}
async function using<T>(index: Promise<SourceIndex>, use: (index: SourceIndex) => Promise<T> | T): Promise<T> {
  const opened = await index;
  try {
    return await use(opened);
  } finally {
    await opened.close();
  }
}
const texts = (n: number): string => Array.from({ length: n }, (_, i) => `{"text":"text ${i}"}\n`).join("");

describe("index of a file", () => {
  it("reads any record, whatever the line ends and blank lines", async () => {
    const content = '\n{"text":"a"}\r\n   \n{"text":"ü"}\n\t\n\n{"text":"c"}'; // no newline at the end
    const path = file(content);
    await using(indexSource({ path }, folder()), async (index) => {
      expect([index.count, index.kind, index.task, index.bytes]).toEqual([3, "text", "text", statSync(path).size]);
      expect(index.hash).toBe(createHash("sha256").update(content).digest("hex"));
      for (const i of [2, 0, 1]) expect(await index.read(i)).toEqual({ task: "text", text: "aüc"[i] });
      expect([await index.nameOf(0), await index.nameOf(1), await index.nameOf(2)]).toEqual(
        [2, 4, 7].map((line) => `${path}:${line}`),
      );
      await expect(index.read(3)).rejects.toThrow(/record 3 of 3/);
      await expect(index.read(-1)).rejects.toThrow(SourceError);
    });
  });

  it("reads lines that cross chunks of a file of several megabytes", async () => {
    const line = (i: number): string => `${i}-`.repeat(1 + ((i * 7919) % 3000));
    const path = file(Array.from({ length: 1200 }, (_, i) => `${JSON.stringify({ text: line(i) })}\n`).join(""));
    expect(statSync(path).size).toBeGreaterThan(3 * 2 ** 20);
    const seen: number[] = [];
    await using(
      indexSource({ path }, folder(), { onProgress: ({ bytes, totalBytes }) => seen.push(bytes / totalBytes) }),
      async (index) => {
        expect(index.count).toBe(1200);
        for (const i of [0, 1, 599, 600, 1198, 1199])
          expect(await index.read(i)).toEqual({ task: "text", text: line(i) });
        for (let i = 0; i < 1200; i++) {
          const raw = await index.read(i);
          if (!("text" in raw) || raw.text !== line(i)) expect.fail(`record ${i}`);
        }
      },
    );
    expect(seen.length).toBeGreaterThan(3);
    expect(seen.at(-1)).toBe(1);
  });

  it("gives a bad record as an error with its line, and the others all the same", async () => {
    const path = file('{"text":"a"}\n{"text":\n{"text":3}\n{"text":"d"}\n');
    await using(indexSource({ path }, folder()), async (index) => {
      expect(index.count).toBe(4);
      await expect(index.read(1)).rejects.toThrow(RecordError);
      await expect(index.read(1)).rejects.toThrow(`${path}:2: the line is not JSON`);
      await expect(index.read(2)).rejects.toThrow(`${path}:3: text must be a string, got "3"`);
      expect(await index.read(3)).toEqual({ task: "text", text: "d" });
    });
  });

  it("finds the kind behind bad first records, and images relative to the file or to a folder", async () => {
    const path = file('nonsense\n{"prompt":"x","image":"a/1.png"}\n');
    const cache = folder();
    const place = join(path, "..");
    await using(indexSource({ path }, cache), async (index) => {
      expect(index.kind).toBe("pairs");
      expect(await index.read(1)).toEqual({ task: "gen", prompt: "x", image: join(place, "a", "1.png") });
    });
    await using(indexSource({ path, images: join(place, "..") }, cache), async (index) =>
      expect(await index.read(1)).toMatchObject({ image: join(place, "..", "a", "1.png") }),
    );
  });

  it("is found again without reading the file, and again after the file was only touched or moved", async () => {
    const path = file(texts(5));
    const cache = folder();
    const reads = async (spec: SourceSpec, open = indexSource): Promise<number> => {
      let bytes = 0;
      await using(open(spec, cache, { onProgress: (progress) => (bytes = progress.bytes) }), (index) =>
        expect(index.count).toBe(5),
      );
      return bytes;
    };
    expect(await reads({ path })).toBe(statSync(path).size);
    expect(await reads({ path })).toBe(0);
    expect(await reads({ path }, openIndex)).toBe(0);
    utimesSync(path, 1e9, 1e9);
    expect(await reads({ path }, openIndex)).toBe(statSync(path).size);
    expect(await reads({ path }, openIndex)).toBe(0);
    const moved = join(folder(), "moved.jsonl");
    renameSync(path, moved);
    await expect(openIndex({ path: moved }, cache)).rejects.toThrow(/has no index in .*janus data index/);
    await reads({ path: moved });
    expect(readdirSync(join(cache, "index")).filter((name) => name.endsWith(".idx")).length).toBe(1);
  });

  it("notices a changed source and names it; indexing it again is allowed", async () => {
    const path = file(texts(5));
    const cache = folder();
    await using(indexSource({ path }, cache), () => undefined);
    writeFileSync(path, texts(5).replace("text 3", "TEXT 3")); // text of the same size
    utimesSync(path, 2e9, 2e9);
    const error = await openIndex({ path }, cache).catch((e: unknown) => e as Error);
    expect(error).toBeInstanceOf(SourceChangedError);
    expect((error as Error).message).toContain(path);
    writeFileSync(path, texts(6));
    await expect(openIndex({ path }, cache)).rejects.toThrow(SourceChangedError);
    await using(indexSource({ path }, cache), (index) => expect(index.count).toBe(6));
    await using(openIndex({ path }, cache), (index) => expect(index.count).toBe(6));
  });

  it("indexes a source whose index is damaged or of an earlier version", async () => {
    const path = file(texts(5));
    const cache = folder();
    await using(indexSource({ path }, cache), () => undefined);
    const [name] = readdirSync(join(cache, "index")).filter((entry) => entry.endsWith(".idx"));
    const earlier = (): Buffer => {
      const footer = JSON.stringify({
        version: 1,
        kind: "text",
        hash: name!.slice(0, 64),
        bytes: statSync(path).size,
        count: 5,
      });
      const tail = Buffer.alloc(8, "\0\0\0\0JIX1");
      tail.writeUInt32LE(footer.length);
      return Buffer.concat([readFileSync(join(cache, "index", name!)).subarray(0, 5 * 16), Buffer.from(footer), tail]);
    };
    const notices: string[] = [];
    for (const damage of [earlier(), "", "JIX1", "x".repeat(100)]) {
      writeFileSync(join(cache, "index", name!), damage);
      await expect(openIndex({ path }, cache)).rejects.toThrow(/has no index/);
      const opened = indexSource({ path }, cache, { onNotice: (text) => notices.push(text) });
      await using(opened, (index) => expect(index.count).toBe(5));
    }
    expect(notices.length).toBe(4);
    expect(notices[0]).toMatch(/its index is damaged or of an earlier version; indexing it/);
  });

  it("counts the fields of records, and refuses a source with fields that are not used", async () => {
    const talk = (change: object): string =>
      JSON.stringify({
        id: 1,
        messages: [
          { role: "user", content: "q" },
          { role: "assistant", content: "a", ...change },
        ],
      });
    const path = file(
      [talk({}), talk({ weight: 0 }), talk({ name: "x" }), talk({ name: null }), "nonsense", '{"text":"b"}'].join("\n"),
    );
    const cache = folder();
    const spec = { path, ignoredFields: ["messages[].name"] };
    const table = (index: SourceIndex): string[] =>
      index.fields.map(({ kind, field, records, use }) => `${kind} ${field} ${records} ${use}`);
    await using(indexSource({ path }, cache), (index) => {
      expect(table(index)).toEqual([
        "messages id 4 ignored",
        "messages messages 4 used",
        "messages messages[].role 4 used",
        "messages messages[].content 4 used",
        "messages messages[].weight 1 used",
        "messages messages[].name 1 refused",
        "text text 1 used",
      ]);
      expect(() => requireKnownFields([index])).toThrow(
        `${path}: fields that are not used: "messages[].name" (1 of kind messages). Remove them, or allow them with --ignore-field "messages[].name"`,
      );
    });
    await using(openIndex(spec, cache), async (index) => {
      requireKnownFields([index]);
      expect(await index.read(2)).toMatchObject({ task: "und" });
    });
    await using(openIndex({ path, ignoredFields: ["messages[].name", "score"] }, cache), (index) =>
      expect(() => requireKnownFields([index])).toThrow(/"score": no record has this field/),
    );
  });

  it("leaves nothing behind when it is stopped", async () => {
    const cache = folder();
    const controller = new AbortController();
    const stop = { signal: controller.signal, onProgress: () => controller.abort() };
    await expect(indexSource({ path: file(texts(100_000)) }, cache, stop)).rejects.toThrow(/abort/i);
    expect(readdirSync(join(cache, "index"))).toEqual([]);
  });

  const bad: [string, string, RegExp][] = [
    ["a JSON list that is cut off", '[\n{"text":"a"},\n{"te', /is cut off: its JSON list does not end/],
    ["two JSON lists", '[{"text":"a"}]\n[]', /there is text behind its JSON list/],
    ["no records", "\n \n", /has no records/],
    ["records of no known kind", '{"a":1}\n{"b":1}\n', /no known kind/],
    ["a listing as if it were a source", '{"class":"a","image":"b"}\n', /no known kind/],
  ];
  it.each(bad)("refuses %s", async (_, content, message) => {
    const error = await indexSource({ path: file(content) }, folder()).catch((e: unknown) => e as Error);
    expect(error).toBeInstanceOf(SourceError);
    expect((error as Error).message).toMatch(message);
  });

  it("refuses files that are not there, and tasks that do not fit", async () => {
    await expect(indexSource({ path: join(temporary, "none.jsonl") }, folder())).rejects.toThrow(FileError);
    await expect(indexSource({ path: file(texts(1)), task: "gen" }, folder())).rejects.toThrow(/not for gen/);
  });
});

it("counts of tokens are those of the fields that are allowed", async () => {
  const path = file('{"text":"a","score":1}\n{"text":"b"}\n');
  const cache = folder();
  const counted = (ignoredFields: string[]): Promise<[number, number]> =>
    using(indexSource({ path, ignoredFields }, cache), async (index) => {
      const { total, bad } = await countTokens(index, { tokens: async () => 3 }, "tokenizer", cache);
      return [total, bad];
    });
  expect(await counted([])).toEqual([3, 1]);
  expect(await counted(["score"])).toEqual([6, 0]);
});

it("token counts of many records are written and read in parts, and an interrupted count leaves nothing", async () => {
  const [cache, records] = [folder(), 2 ** 16 + 3];
  mkdirSync(join(cache, "index"));
  const index = { spec: {}, task: "text", hash: "a".repeat(64), count: records, read: async (i: number) => i };
  const tokens = async (raw: unknown): Promise<number> => 1 + (Number(raw) % 7);
  const counted = (stop?: AbortSignal): ReturnType<typeof countTokens> =>
    countTokens(index as unknown as SourceIndex, { tokens }, "t", cache, stop ? { signal: stop } : {}); // what it uses of an index
  await expect(counted(AbortSignal.abort(new Error("stopped")))).rejects.toThrow("stopped");
  expect(readdirSync(join(cache, "index"))).toEqual([]);
  const wanted = Uint32Array.from({ length: records }, (_, i) => 1 + (i % 7));
  const sums = { total: wanted.reduce((sum, count) => sum + count), longest: 7, bad: 0 };
  for (let pass = 0; pass < 2; pass++) expect({ ...(await counted()) }).toEqual(sums); // none of them with a number a record
  const [name] = readdirSync(join(cache, "index"));
  expect(Buffer.compare(readFileSync(join(cache, "index", name!)), Buffer.from(wanted.buffer))).toBe(0);
});

it("files may begin with a byte order mark", async () => {
  const path = file('\ufeff{"text":"a","score":1}\n', "marked.jsonl");
  await using(indexSource({ path, ignoredFields: ["score"] }, folder()), async (index) => {
    expect([index.kind, await index.read(0)]).toEqual(["text", { task: "text", text: "a" }]);
    expect(index.fields.map(({ field }) => field)).toEqual(["text", "score"]);
  });
  const root = folder();
  mkdirSync(join(root, "n02"));
  writeFileSync(join(root, "n02", "1.png"), "");
  const classes = file("\ufeffn02 tench\n", "names.txt");
  await using(indexSource({ path: root, classes }, folder()), async (index) =>
    expect(await index.read(0)).toMatchObject({ prompt: "tench" }),
  );
});

it.each<[string, Uint8Array, RegExp]>([
  [
    "gzip",
    Uint8Array.of(0x1f, 0x8b, 8, 0, 10),
    /must be a file of records; it is compressed by gzip: unpack it with gunzip/,
  ],
  ["Parquet", Buffer.from("PAR1\x15"), /is damaged or cut off: it does not end with PAR1/],
  ["UTF-16", Buffer.from('\ufeff{"text":"a"}\n', "utf16le"), /is text in UTF-16; save it as UTF-8/],
  ["Git LFS", Buffer.from("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), /is a pointer of Git LFS/],
])("files of %s are refused as such", async (_, content, message) => {
  await expect(indexSource({ path: file(content) }, folder())).rejects.toThrow(SourceError);
  await expect(indexSource({ path: file(content) }, folder())).rejects.toThrow(message);
});

describe("index of a folder of classes", () => {
  function classes(): string {
    const root = folder();
    for (const [name, files] of Object.entries({
      red_circle: ["b.png", "a.JPG", "x.txt"],
      n02: ["1.png"],
      empty: [],
    })) {
      mkdirSync(join(root, name));
      for (const entry of files) writeFileSync(join(root, name, entry), entry);
    }
    writeFileSync(join(root, "README.md"), "");
    return root;
  }

  it("lists images with the names of their classes", async () => {
    const path = classes();
    await using(indexSource({ path }, folder()), async (index) => {
      expect([index.count, index.kind, index.task]).toEqual([3, "folder", "gen"]);
      expect([await index.read(0), await index.read(1), await index.read(2)]).toEqual([
        { task: "gen", prompt: "n02", image: join(path, "n02", "1.png") },
        { task: "gen", prompt: "red circle", image: join(path, "red_circle", "a.JPG") },
        { task: "gen", prompt: "red circle", image: join(path, "red_circle", "b.png") },
      ]);
    });
  });

  it("takes the names from a file, and has an index of its own for them", async () => {
    const path = classes();
    const cache = folder();
    const names = file("n02 tench, Tinca tinca\nred_circle\ta circle \r\n\nempty nothing\nother o\n", "classes.txt");
    await using(indexSource({ path }, cache), async (index) =>
      expect(await index.read(0)).toMatchObject({ prompt: "n02" }),
    );
    await using(indexSource({ path, classes: names }, cache), async (index) => {
      expect(await index.read(0)).toMatchObject({ prompt: "tench, Tinca tinca" });
      expect(await index.read(2)).toMatchObject({ prompt: "a circle" });
    });
    await using(openIndex({ path }, cache), async (index) =>
      expect(await index.read(0)).toMatchObject({ prompt: "n02" }),
    );
    writeFileSync(names, "n02 tench\n");
    await expect(indexSource({ path, classes: names }, cache)).rejects.toThrow(/no line for the folder empty/);
    writeFileSync(names, "n02\n");
    await expect(indexSource({ path, classes: names }, cache)).rejects.toThrow(/classes\.txt:1: a line is/);
  });

  it("notices images that come or go", async () => {
    const path = classes();
    const cache = folder();
    await using(indexSource({ path }, cache), () => undefined);
    await using(openIndex({ path }, cache), (index) => expect(index.count).toBe(3));
    writeFileSync(join(path, "n02", "2.png"), "");
    await expect(openIndex({ path }, cache)).rejects.toThrow(SourceChangedError);
    rmSync(join(path, "n02", "2.png"));
    await using(openIndex({ path }, cache), (index) => expect(index.count).toBe(3));
    rmSync(join(path, "n02"), { recursive: true });
    await expect(openIndex({ path }, cache)).rejects.toThrow(SourceChangedError);
  });

  it("uses nested folders, links and JFIF files, and reports the rest", async () => {
    const path = folder();
    for (const name of ["train/cat", "train/dog", "cat", "blobs", "cat/.git"])
      mkdirSync(join(path, name), { recursive: true });
    for (const name of ["train/cat/1.png", "cat/2.jfif", "cat/3.bmp", "cat/notes.txt", "4.png", ".hidden", "blobs/5"])
      writeFileSync(join(path, name), name);
    symlinkSync("../../blobs/5", join(path, "train/dog/5.png")); // as in a snapshot of the hub
    symlinkSync("../blobs/none", join(path, "cat/6.png"));
    symlinkSync("none", join(path, "gone"));
    symlinkSync("..", join(path, "train/up"));
    const cache = folder();
    for (const open of [indexSource, openIndex])
      await using(open({ path }, cache), async (index) => {
        const records = [];
        for (let i = 0; i < index.count; i++) records.push(await index.read(i));
        expect(records.map((raw) => raw.task === "gen" && [raw.prompt, raw.image.slice(path.length + 1)])).toEqual([
          ["cat", "cat/2.jfif"], ["cat", "train/cat/1.png"], ["dog", "train/dog/5.png"],
        ]); // prettier-ignore
        expect(
          Object.fromEntries(index.skipped.map(({ reason, count, example }) => [reason, [count, example]])),
        ).toEqual({
          hidden: [2, ".hidden"],
          "in the root, without the folder of a class": [1, "4.png"],
          "broken link": [2, "gone"],
          "not an image by its name": [2, "blobs/5"],
          "an image of a format that is not read": [1, "cat/3.bmp"],
          "link to a folder above it": [1, "train/up"],
        });
        expect(noticesOf(index)[0]).toMatch(/not used: .*2 × broken link \(gone, …\)/);
      });
    mkdirSync(join(path, "val/cat"), { recursive: true });
    writeFileSync(join(path, "val/cat/1.png"), "");
    await expect(indexSource({ path }, cache)).rejects.toThrow(/contains the splits train and val.*Give .*train$/);
  });

  it("are of one split, at any depth, and no split is a class", async () => {
    const root = folder();
    const image = (name: string): void => {
      mkdirSync(join(root, name), { recursive: true });
      writeFileSync(join(root, name, "1.png"), "");
    };
    for (const name of ["images/train/cat", "images/test/cat"]) image(name);
    await expect(indexSource({ path: root }, folder())).rejects.toThrow(
      /images contains the splits test and train.*Give .*images.train$/,
    );
    rmSync(join(root, "images"), { recursive: true });
    for (const name of ["cat/train", "cat/test"]) image(name);
    await expect(indexSource({ path: root }, folder())).rejects.toThrow(
      /cat has images in the folders test and train, which are names of splits/,
    );
    const classes = file("train a train\ntest a test\n", "names.txt");
    await using(indexSource({ path: root, classes }, folder()), (index) => expect(index.count).toBe(2));
  });

  it("notices an image that was overwritten, with and without the cache", async () => {
    const path = classes();
    const caches = [folder(), folder()];
    let before = "";
    await using(indexSource({ path }, caches[0]!), (index) => void (before = index.hash));
    writeFileSync(join(path, "n02", "1.png"), "other bytes");
    await expect(openIndex({ path }, caches[0]!)).rejects.toThrow(SourceChangedError);
    const hashes: string[] = [];
    for (const cache of caches) await using(indexSource({ path }, cache), (index) => void hashes.push(index.hash));
    expect(hashes[0]).toBe(hashes[1]);
    expect(hashes[0]).not.toBe(before);
  });

  it("refuses folders without images", async () => {
    await expect(indexSource({ path: folder() }, folder())).rejects.toThrow(/has no folders with images/);
  });
});
