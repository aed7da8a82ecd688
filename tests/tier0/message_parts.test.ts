/** Parts of messages: transformers' and OpenAI's forms, the images that they bring, and what is refused with message, part and type. */
import { describe, expect, it } from "vitest";
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";
import { imagesOf } from "../../model/janus/message_images.ts";
import { questionIds } from "../../model/janus/pipeline.ts";
import { PromptFormat } from "../../model/janus/prompt.ts";
import type { Message } from "../../model/janus/prompt.ts";
import type { Processor } from "../../model/janus/processor.ts";
import { Tokenizer } from "../../model/janus/tokenizer.ts";
import { PromptError } from "../../model/request.ts";

const tokenizer = new Tokenizer({ tokenizer: new TextDecoder().decode(byteTokenizerFiles().get("tokenizer.json")) });
const prompts = new PromptFormat(tokenizer, { imageTokens: 4 });
const TAG = "<image_placeholder>";
const asked = (content: unknown): Message[] => [{ role: "user", content: content as Message["content"] }];
const written = (content: unknown): string => prompts.conversation(asked(content), { system: "" });
const image = { width: 1, height: 1, data: new Uint8Array(3) };
const DATA = "data:image/png;base64,AQID";

describe("parts of a message", () => {
  it("are text and images in either writing", () => {
    const plain = written([{ type: "image" }, { type: "text", text: "What?" }]);
    expect(plain).toBe(`<|User|>: ${TAG}\nWhat?\n\n<|Assistant|>:`);
    expect(
      written([
        { type: "image_url", image_url: { url: DATA } },
        { type: "text", text: "What?" },
      ]),
    ).toBe(plain);
    expect(
      written([
        { type: "input_image", image_url: DATA },
        { type: "input_text", text: "What?" },
      ]),
    ).toBe(plain);
  });
  it.each<[unknown, RegExp]>([
    [[{ type: "text", text: "a" }, { type: "video" }], /message 0, part 1: type "video" is not supported; it must be one of "text", "input_text", "image"/],
    [[{ type: "input_audio", input_audio: {} }], /message 0, part 0: type "input_audio"/],
    [[{ text: "a" }], /message 0, part 0: type undefined/],
    [["a"], /message 0, part 0 must be an object with a type; got "a"/],
    [[null], /message 0, part 0 must be an object/],
    [[{ type: "text" }], /message 0, part 0: type "text" needs a string text; got undefined/],
    [[{ type: "input_text", text: 3 }], /type "input_text" needs a string text; got 3/],
    [undefined, /message 0: content must be a text or a list of parts; got undefined/],
    [{ type: "text", text: "a" }, /message 0: content must be a text or a list of parts/],
  ])("are refused by name: %j", (content, message) => {
    expect(() => written(content)).toThrow(PromptError);
    expect(() => written(content)).toThrow(message);
  }); // prettier-ignore
  it("count from the first message", () => {
    const turns = [...asked("a"), { role: "assistant", content: "b" }, ...asked([{ type: "file" }])] as Message[];
    expect(() => prompts.conversation(turns)).toThrow(/message 2, part 0: type "file"/);
  });
});

describe("the images of a conversation", () => {
  const images = (content: unknown, listed: unknown[] = []): unknown => imagesOf(asked(content), listed as never, TAG);

  it("come from the parts that bring one, and from the list for the others, in order", () => {
    const bytes = Uint8Array.of(1, 2, 3);
    expect(images([{ type: "image_url", image_url: { url: DATA, detail: "low" } }])).toEqual([bytes]);
    expect(images([{ type: "input_image", image_url: DATA, detail: "auto" }, { type: "image" }], [image])).toEqual([bytes, image]); // prettier-ignore
    expect(images([{ type: "image" }, { type: "image", path: "b.png" }, { type: "image" }], ["a.png", "c.png"])).toEqual(["a.png", "b.png", "c.png"]); // prettier-ignore
    expect(
      images([
        { type: "image", image },
        { type: "image", url: DATA },
      ]),
    ).toEqual([image, bytes]);
    expect(images([{ type: "text", text: `${TAG} and` }, { type: "image", path: "b.png" }], ["a.png"])).toEqual(["a.png", "b.png"]); // prettier-ignore
    expect(imagesOf("what?", ["a.png"], TAG)).toEqual(["a.png"]);
    expect(imagesOf(asked(`${TAG}${TAG}`), ["a.png"], TAG)).toEqual(["a.png"]);
  });
  it.each<[unknown, RegExp]>([
    [[{ type: "image_url", image_url: { url: "https://x/y.png" } }], /message 0, part 0: image_url must be a data: URL in base64; got "https:/],
    [[{ type: "image_url", image_url: "/etc/passwd" }], /must be a data: URL/],
    [[{ type: "image_url" }], /image_url must be a data: URL in base64; got undefined/],
    [[{ type: "image", url: "file:///a.png" }], /part 0: url must be a data: URL/],
    [[{ type: "image_url", image_url: "data:image/png;base64,@@" }], /not valid base64/],
    [[{ type: "input_image", file_id: "f" }], /the field "file_id" of type "input_image" is not supported/],
    [[{ type: "text", text: "a", cache_control: {} }], /the field "cache_control" of type "text" is not supported/],
    [[{ type: "image", image, path: "a" }], /must have one of image, url and path; got image, path/],
    [[{ type: "text", text: "a", image }], /the field "image" of type "text" is not supported/],
  ])("are refused by name: %j", (content, message) => {
    expect(() => images(content)).toThrow(PromptError);
    expect(() => images(content)).toThrow(message);
  }); // prettier-ignore
  it.each(["constructor", "toString", "__proto__"])("names of an object's own are no type: %s", (type) => {
    expect(() => imagesOf(asked([{ type, text: "a" }]), [], TAG)).not.toThrow(); // the text's check refuses it
    expect(() => written([{ type, text: "a" }])).toThrow(`type "${type}" is not supported`);
  });
  it.each<[unknown, unknown, RegExp]>([
    [[null], [], /message 0 must be an object with role and content; got null/],
    [["hi"], [], /message 0 must be an object with role and content; got "hi"/],
    [undefined, [], /the question must be a text or a list of messages; got undefined/],
    [{ role: "user", content: "a" }, [], /the question must be a text or a list of messages; got \{/],
    ["hi", "photo.jpg", /images must be a list; got "photo\.jpg"/],
    ["hi", new Uint8Array(3), /images must be a list; got object/],
  ])("are refused if %j with %j is no list", (question, listed, message) => {
    expect(() => imagesOf(question as never, listed as never, TAG)).toThrow(PromptError);
    expect(() => imagesOf(question as never, listed as never, TAG)).toThrow(message);
  });
  it("and fields of a message that are not known are refused in a question", () => {
    const processor = { prompts, tokenizer } as Processor;
    const named = [{ role: "user", content: "a", weight: 0 }] as unknown as Message[];
    expect(() => questionIds(processor, named, 0)).toThrow(/message 0: the field "weight" is not supported/);
    expect(questionIds(processor, asked([{ type: "image" }, { type: "text", text: "a" }]), 1).length).toBeGreaterThan(
      6,
    );
  });
});
