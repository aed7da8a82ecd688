/** Records of every kind as raw samples, and bad ones as errors that name file, line and what to do. */
import { describe, expect, it } from "vitest";
import { RecordError, SourceError } from "../../train/data/errors.ts";
import { kindOf, parseLine, parseRecord, sourceTask } from "../../train/node/data/sources.ts";
import type { RawSample } from "../../train/data/raw_sample.ts";
import type { Task } from "../../train/samples.ts";

const place = { file: "data.jsonl", line: 7, images: "/pictures" };
const parse = (record: unknown, task?: Task, ignoredFields: string[] = []): RawSample => {
  const kind = kindOf(record)!;
  const found = sourceTask({ path: "data.jsonl", ...(task && { task }) }, kind);
  return parseRecord(record, kind, found, { ...place, ignoredFields });
};
const llava = (...values: string[]): unknown[] => values.map((value, i) => ({ from: i % 2 ? "gpt" : "human", value }));
const image = { type: "image" };
const text = (words: string): unknown => ({ type: "text", text: words });

describe("sources", () => {
  it("reads LLaVA's conversations", () => {
    const conversations = llava("<image>\nWhat is it?", "A cat.", "And its colour?", "Grey.");
    expect(parse({ id: 1, image: "coco/1.jpg", conversations })).toEqual({
      task: "und",
      images: ["/pictures/coco/1.jpg"],
      messages: [
        { role: "user", content: [image, text("What is it?")] },
        { role: "assistant", content: "A cat." },
        { role: "user", content: "And its colour?" },
        { role: "assistant", content: "Grey." },
      ],
    });
  });

  it("reads ShareGPT's turns with any of its roles, and turns as OpenAI writes them in either list", () => {
    const wanted = {
      task: "und",
      images: [],
      messages: [
        { role: "user", content: "Hi" },
        { role: "assistant", content: "Hello." },
      ],
    };
    for (const from of ["gpt", "chatgpt", "bing", "bard", "model"])
      expect(parse({ conversations: [{ from: "human", value: "Hi" }, { from, value: "Hello." }] })).toEqual(wanted); // prettier-ignore
    const roles = [
      { role: "user", content: "Hi" },
      { role: "assistant", content: "Hello." },
    ];
    expect(parse({ conversations: roles })).toEqual(wanted);
    expect(parse({ messages: [{ from: "user", value: "Hi" }, { from: "gpt", value: "Hello." }] })).toEqual(wanted); // prettier-ignore
    expect(parse({ messages: [{ role: "developer", content: "Be brief." }, ...roles] })).toEqual({ ...wanted, system: "Be brief." }); // prettier-ignore
    expect(() => parse({ messages: [{ role: "user", from: "human", content: "Hi", value: "Hi" }, roles[1]] })).toThrow(/messages\[0\] has role and from; leave one of them/); // prettier-ignore
  });

  it("reads prompts and captions with images under the names of published sets", () => {
    const wanted = { task: "gen", prompt: "a cat", image: "/pictures/1.png" };
    const size = [1024, 1024];
    for (const record of [
      { input_prompt: "a cat", output_image: "1.png", output_image_resolution: size },
      { caption: "a cat", file_name: "1.png" },
      { caption: "a cat", text: "a cat", image: "1.png" }, // twice the same is no choice
    ])
      expect(parse(record)).toEqual(wanted);
    expect(() => parse({ caption: "a cat", text: "a dog", image: "1.png" })).toThrow(
      /"text beside caption" is not used/,
    );
    expect(() => parse({ input_prompt: "x", input_image: "0.png", output_image: "1.png" })).toThrow(/"input_image" is not used/); // prettier-ignore
  });

  it("reads images of OpenAI's messages as data URLs", () => {
    const url = "data:image/png;base64,iVBORw0KGgo=";
    const content = [{ type: "image_url", image_url: { url, detail: "low" } }, text("What?")];
    expect(parse({ messages: [{ role: "user", content }, { role: "assistant", content: "That." }] })).toMatchObject({ images: [url] }); // prettier-ignore
  });

  it("keeps the places and the order of several images, over several turns", () => {
    const record = {
      images: ["a.png", "/b.png", "c.png"],
      conversations: llava("Compare <image> with\n<image>", "Alike.", "And this?\n<image>", "Not."),
    };
    expect(parse(record)).toEqual({
      task: "und",
      images: ["/pictures/a.png", "/b.png", "/pictures/c.png"],
      messages: [
        { role: "user", content: [text("Compare"), image, text("with"), image] },
        { role: "assistant", content: "Alike." },
        { role: "user", content: [text("And this?"), image] },
        { role: "assistant", content: "Not." },
      ],
    });
  });

  it("reads OpenAI's messages: text, parts, images by path, and a system message", () => {
    const record = {
      messages: [
        { role: "system", content: "Be brief." },
        {
          role: "user",
          content: [
            { type: "image_url", image_url: { url: "a.png" } },
            { type: "image_url", image_url: "file:///b.png" },
            { type: "image", path: "c.png" },
            { type: "text", text: "What are these?" },
          ],
        },
        { role: "assistant", content: [{ type: "text", text: "Letters." }] },
      ],
    };
    expect(parse(record)).toEqual({
      task: "und",
      system: "Be brief.",
      images: ["/pictures/a.png", "/b.png", "/pictures/c.png"],
      messages: [
        { role: "user", content: [image, image, image, text("What are these?")] },
        { role: "assistant", content: "Letters." },
      ],
    });
  });

  it("takes listed images in the places of tags and of image parts", () => {
    const answer = { role: "assistant", content: "Yes." };
    const tagged = { images: ["a.png"], messages: [{ role: "user", content: "<image>Is it?" }, answer] };
    const parts = {
      images: ["a.png"],
      messages: [{ role: "user", content: [{ type: "image" }, { type: "text", text: "Is it?" }] }, answer],
    };
    for (const record of [tagged, parts])
      expect(parse(record)).toMatchObject({
        images: ["/pictures/a.png"],
        messages: [{ content: [image, text("Is it?")] }, {}],
      });
    // In a part of type text the word is a word; in a string without a list it is refused below.
    const word = [{ type: "text", text: "What does <image> mean?" }];
    expect(parse({ messages: [{ role: "user", content: word }, answer] })).toMatchObject({
      images: [],
      messages: [{ content: "What does <image> mean?" }, {}],
    });
  });

  it("reads pairs, texts, classes, and conversations as text", () => {
    expect(parse({ prompt: "a red circle", image: "1.png" })).toEqual({
      task: "gen",
      prompt: "a red circle",
      image: "/pictures/1.png",
    });
    expect(parse({ text: "Once upon a time" })).toEqual({ task: "text", text: "Once upon a time" });
    expect(parse({ class: "tench", image: "n01/1.png" })).toMatchObject({ task: "gen", prompt: "tench" });
    expect(parse({ conversations: llava("Hello", "Hi") }, "text")).toEqual({
      task: "text",
      messages: [
        { role: "user", content: "Hello" },
        { role: "assistant", content: "Hi" },
      ],
    });
  });

  const talk = [
    { role: "user", content: "q1" },
    { role: "assistant", content: "bad" },
    { role: "user", content: "q2" },
    { role: "assistant", content: "good" },
  ];
  it.each([
    ["loss", false, true], ["weight", 0, 1], ["loss_mask", 0, 1], ["train", false, true], ["loss", false, null],
  ])("obeys the loss switch %s of a turn: %j and %j", (name, off, on) => {
    const messages = talk.map((turn, i) => (i % 2 ? { ...turn, [name]: i === 1 ? off : on } : turn));
    const conversations = messages.map(({ role, content, ...rest }) => ({
      from: role === "user" ? "human" : "gpt",
      value: content,
      ...rest,
    }));
    for (const record of [{ messages }, { conversations }])
      expect(parse(record)).toEqual({ task: "und", images: [], messages: talk, untrained: [1] });
    expect(parse({ messages: talk })).not.toHaveProperty("untrained");
  }); // prettier-ignore

  it("obeys the system prompt of a record", () => {
    const messages = talk.slice(0, 2);
    expect(parse({ system: "You are a pirate.", messages })).toMatchObject({ system: "You are a pirate." });
    expect(parse({ system: "You are a pirate.", conversations: llava("hi", "arr") })).toMatchObject({
      system: "You are a pirate.",
    });
    expect(parse({ system: "", messages })).toMatchObject({ system: "" });
    expect(parse({ system: null, messages })).not.toHaveProperty("system");
  });

  it("reads captions of images, tables with null and empty columns, and images of Hugging Face's datasets", () => {
    const square = { task: "gen", prompt: "a red square", image: "/pictures/a.png" };
    for (const record of [
      { image: "a.png", text: "a red square" },
      { file_name: "a.png", text: "a red square" },
      { file_name: "a.png", prompt: "a red square", text: null },
      { file_name: "a.png", image: "", text: "a red square" },
      { image: "a.png", prompt: "a red square", text: "" },
      { image: "a.png", prompt: "", text: "a red square" },
      { image: { path: "a.png", bytes: null }, text: "a red square" },
    ])
      expect(parse(record)).toEqual(square);
    expect(parse({ image: { path: null, bytes: "iVBORw0K" }, text: "x" })).toMatchObject({
      image: "data:;base64,iVBORw0K",
    });
    const messages = [{ role: "user", content: "<image>What?", name: null }, talk[1]];
    expect(parse({ messages, images: [{ path: "a.png", bytes: null }] })).toMatchObject({
      images: ["/pictures/a.png"],
    });
    const url = "data:image/png;base64,iVBORw0K";
    const part = [
      { type: "image_url", image_url: { url, detail: "low" } },
      { type: "text", text: "What?" },
    ];
    const newer = [{ type: "input_image", image_url: url, detail: "low" }, { type: "input_text", text: "What?" }]; // prettier-ignore
    for (const content of [part, newer])
      expect(parse({ messages: [{ role: "user", content }, talk[1]] })).toMatchObject({ images: [url] });
    const union = [{ type: "image", image: null, path: "a.png", text: null }, { type: "text", text: "What?", image: null }]; // prettier-ignore
    expect(parse({ messages: [{ role: "user", content: union }, talk[1]] })).toMatchObject({
      images: ["/pictures/a.png"],
    });
    const nothing = { path: null, bytes: null };
    for (const empty of [
      { image: "" },
      { images: [] },
      { image: null, images: null },
      { image: nothing },
      { images: [nothing] },
    ])
      expect(parse({ id: 1, ...empty, messages: talk })).toMatchObject({ images: [], messages: talk });
    expect(parse({ text: "x", image: "", url: "https://a.b" })).toEqual({ task: "text", text: "x" });
  });

  it("reads records of several kinds that are for the task of the file", () => {
    const messages = { messages: talk };
    expect(parseRecord({ conversations: llava("a", "b") }, "messages", "und", place)).toMatchObject({ task: "und" });
    expect(parseRecord(messages, "text", "text", place)).toMatchObject({ task: "text" });
    expect(() => parseRecord({ text: "x" }, "messages", "und", place)).toThrow(
      /is of kind text and its file is for und/,
    );
  });

  it("takes fields that are allowed by name", () => {
    expect(() => parse({ text: "x", score: 1 })).toThrow(
      /field "score" is not used in a record of kind text; remove it, or allow it with --ignore-field "score"/,
    );
    expect(parse({ text: "x", score: 1 }, undefined, ["score"])).toEqual({ task: "text", text: "x" });
    const messages = [{ ...talk[0], name: "Ada" }, talk[1]];
    expect(() => parse({ messages })).toThrow(/--ignore-field "messages\[\]\.name"/);
    expect(parse({ messages }, undefined, ["messages[].name"])).toMatchObject({ messages: talk.slice(0, 2) });
  });

  it.each([10_000, 100_000])("sets a record aside that is nested %d deep", (depth) => {
    const nested = (field: string): Uint8Array =>
      new TextEncoder().encode(`{"text": "x", "${field}": ${"[".repeat(depth)}${"]".repeat(depth)}}`);
    const read = (field: string): unknown => parseRecord(parseLine(nested(field), place), "text", "text", place);
    expect(() => read("text")).toThrow(RecordError);
    expect(() => read("tags")).toThrow(RecordError);
    expect(read("meta")).toEqual({ task: "text", text: "x" });
  });

  const switched = (change: object, i = 1): unknown => ({
    messages: talk.map((turn, at) => (at === i ? { ...turn, ...change } : turn)),
  });
  const asking = (part: object): unknown => ({ messages: [{ role: "user", content: [part] }, talk[1]] });
  const bad: [string, unknown, RegExp, Task?][] = [
    ["a weight that is a part", switched({ weight: 0.5 }), /messages\[1\]\.weight is "0\.5"; 0, 1, false and true/],
    ["switches that differ", switched({ loss: true, weight: 0 }), /has loss and weight, which differ/],
    ["a question to train", switched({ loss: true }, 0), /only answers of the assistant are trained/],
    ["the weight of a record", { messages: talk, weight: 0 }, /field "weight" is not used/],
    ["the loss of a record", { text: "x", loss: false }, /field "loss" is not used/],
    ["a prompt beside a text", { prompt: "a", text: "b" }, /field "prompt" is not used in a record of kind text/],
    [
      "a text beside a prompt",
      { prompt: "a", text: "b", image: "a.png" },
      /field "text beside prompt" is not used in a record of kind pairs/,
    ],
    [
      "two images of a pair",
      { text: "b", image: "a.png", file_name: "b.png" },
      /field "file_name beside image" is not used/,
    ],
    ["images of a text", { images: ["a.png"], text: "<image>a red square" }, /field "images" is not used/],
    ["image and images", { image: "a", images: ["b"], messages: talk }, /has image and images/],
    [
      "a tag without an image",
      { messages: [{ role: "user", content: "<image>\nWhat?" }, talk[1]] },
      /name 1 images by <image> and 0 are listed; .*list of parts/,
    ],
    ["a tag with an empty image", { image: "", conversations: llava("<image>What?", "x") }, /name 1 images/],
    ["a tag with an end", { images: ["a"], conversations: llava("<image>1</image> What?", "x") }, /has <\/image>/],
    ["two system prompts", { system: "a", messages: [{ role: "system", content: "b" }, ...talk] }, /leave one of them/],
    ["a system prompt of another type", { system: 1, messages: talk }, /system must be a string, got "1"/],
    ["bytes that are no base64", { text: "x", image: { path: "a", bytes: [1, 2] } }, /image\.bytes must be base64/],
    ["more about an image", { text: "x", image: { path: "a", crop: 1 } }, /image\.crop is not used/],
    ["no answer at the end", { conversations: llava("Hello") }, /does not end with an answer/],
    ["an empty answer", { conversations: llava("Hello", "  ") }, /message 1, an answer, is empty/],
    ["an empty question", { conversations: llava(" ", "Hi") }, /message 0, a question, is empty/],
    ["the wrong turn", { messages: [{ role: "assistant", content: "Hi" }] }, /message 0 is of "assistant"/],
    ["an unknown speaker", { conversations: [{ from: "bot", value: "x" }] }, /conversations\[0\]\.from is "bot"/],
    ["a name of an object's own", { conversations: [{ from: "toString", value: "x" }] }, /from is "toString"/],
    ["too few images", { conversations: llava("<image>\nWhat?", "x") }, /name 1 images by <image> and 0 are listed/],
    ["too many", { image: "a.png", conversations: llava("What?", "x") }, /name 0 images by <image> and 1 are listed/],
    ["an image in an answer", { image: "a", conversations: llava("Draw", "<image>") }, /answers are text/],
    ["an image of the web", { prompt: "x", image: "https://a.b/c.png" }, /only files and base64/],
    [
      "an image in text that is no base64",
      { prompt: "x", image: "data:image/png,AA" },
      /only files and base64 data URLs/,
    ],
    ["a prompt of another type", { prompt: 3, image: "a.png" }, /prompt must be a string, got "3"/],
    ["an empty caption", { text: " ", image: "a.png" }, /^text is empty/],
    ["a caption that is not there", { text: "", image: "a.png" }, /^text is empty/],
    ["an empty text", { text: "\n" }, /text is empty/],
    ["no image", { prompt: "x", image: null }, /image must be the path/],
    ["messages that are none", { messages: [] }, /messages must be a list/],
    ["an unknown part", { messages: [{ role: "user", content: [{ type: "audio" }] }] }, /content\[0\]\.type is/],
    [
      "an image in a part of text",
      asking({ type: "text", text: "a", image: "a.png" }),
      /\.image is not used in a part of type "\\"text\\"/,
    ],
    [
      "a text in a part of an image",
      asking({ type: "image", path: "a.png", text: "a" }),
      /content\[0\]\.text is not used in a part/,
    ],
    [
      "two images in a part",
      asking({ type: "image", path: "a.png", image: "b.png" }),
      /content\[0\] has image and path; leave one/,
    ],
    [
      "two images in OpenAI's part",
      asking({ type: "image_url", image_url: { url: "a" }, image: "b" }),
      /has image_url and image/,
    ],
    ["images in text", { image: "a", conversations: llava("<image>", "x") }, /its source is for text/, "text"],
  ];
  it.each(bad)("refuses %s", (_, record, reason, task) => {
    try {
      parse(record, task);
      expect.fail("it was taken");
    } catch (error) {
      expect(error).toBeInstanceOf(RecordError);
      const { message, reason: why, line } = error as RecordError;
      expect(message).toBe(`data.jsonl:7: ${why}`);
      expect(why).toMatch(reason);
      expect(line).toBe(7);
    }
  });

  it("refuses lines that are no JSON or no UTF-8", () => {
    expect(() => parseLine(new TextEncoder().encode("{"), place)).toThrow(/data\.jsonl:7: the line is not JSON/);
    const line = (json: string): unknown => parseLine(new TextEncoder().encode(json), place);
    for (const json of ['{"text":"a","text":"b"}', '{"a":[{"role":1,"r\\u006fle":2}]}', '{"a":{"b":1},"c":":","a":2}'])
      expect(() => line(json)).toThrow(/data\.jsonl:7: the key "(text|role|a)" stands twice in one object/);
    const often = '{"a":[{"a":"a\\"b:{"},{"a":[["a","a"]]}],"b":{"a":"\\\\"}}';
    expect(line(often)).toEqual(JSON.parse(often));
    expect(() => parseLine(Uint8Array.of(0x22, 0xff, 0x22), place)).toThrow(/data\.jsonl:7: the line is not UTF-8/);
    expect(() => parseRecord([], "text", "text", place)).toThrow(/must be a JSON object/);
  });

  it("refuses tasks that a kind cannot be", () => {
    expect(() => sourceTask({ path: "p.jsonl", task: "und" }, "pairs")).toThrow(SourceError);
    expect(sourceTask({ path: "p.jsonl" }, "messages")).toBe("und");
    expect(kindOf({ other: 1 })).toBe(undefined);
    expect(kindOf("text")).toBe(undefined);
  });
});
