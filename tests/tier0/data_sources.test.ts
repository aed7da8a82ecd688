/** Records of every kind as raw samples, and bad ones as errors that name file, line and what to do. */
import { describe, expect, it } from "vitest";
import { RecordError, SourceError } from "../../train/data/errors.ts";
import { kindOf, parseLine, parseRecord, sourceTask } from "../../train/node/data/sources.ts";
import type { RawSample } from "../../train/data/raw_sample.ts";
import type { Task } from "../../train/samples.ts";

const place = { file: "data.jsonl", line: 7, images: "/pictures" };
const parse = (record: unknown, task?: Task): RawSample => {
  const kind = kindOf(record)!;
  return parseRecord(record, kind, sourceTask({ path: "data.jsonl", ...(task && { task }) }, kind), place);
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
    // Without a list the word is a word.
    expect(parse({ messages: [{ role: "user", content: "What does <image> mean?" }, answer] })).toMatchObject({
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

  const bad: [string, unknown, RegExp, Task?][] = [
    ["no answer at the end", { conversations: llava("Hello") }, /does not end with an answer/],
    ["an empty answer", { conversations: llava("Hello", "  ") }, /message 1, an answer, is empty/],
    ["an empty question", { conversations: llava(" ", "Hi") }, /message 0, a question, is empty/],
    ["the wrong turn", { messages: [{ role: "assistant", content: "Hi" }] }, /message 0 is of "assistant"/],
    ["an unknown speaker", { conversations: [{ from: "bot", value: "x" }] }, /conversations\[0\]\.from is "bot"/],
    ["a name of an object's own", { conversations: [{ from: "toString", value: "x" }] }, /from is "toString"/],
    ["too few images", { conversations: llava("<image>\nWhat?", "x") }, /name 1 images by <image> and 0 are listed/],
    ["too many", { image: "a.png", conversations: llava("What?", "x") }, /name 0 images by <image> and 1 are listed/],
    ["an image in an answer", { image: "a", conversations: llava("Draw", "<image>") }, /answers are text/],
    ["an image of the web", { prompt: "x", image: "https://a.b/c.png" }, /only files are read/],
    ["an image in the text", { prompt: "x", image: "data:image/png;base64,AA" }, /only files are read/],
    ["a prompt of another type", { prompt: 3, image: "a.png" }, /prompt must be a string, got "3"/],
    ["an empty text", { text: "\n" }, /text is empty/],
    ["no image", { prompt: "x", image: null }, /image must be the path/],
    ["messages that are none", { messages: [] }, /messages must be a list/],
    ["an unknown part", { messages: [{ role: "user", content: [{ type: "audio" }] }] }, /content\[0\]\.type is/],
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
