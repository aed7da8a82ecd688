/** Prompts: the conversation format and its ids against the fixtures in both layouts, images, batches, and prompts that cannot be asked. */
import { describe, expect, it } from "vitest";
import { ConfigError } from "../../model/io/errors.ts";
import {
  DEFAULT_SYSTEM_PROMPT,
  PromptFormat,
  leftPad,
  promptConfig,
  unconditionalRow,
} from "../../model/janus/prompt.ts";
import type { Message } from "../../model/janus/prompt.ts";
import { PromptError, checkContext } from "../../model/request.ts";
import { Tokenizer } from "../../model/janus/tokenizer.ts";
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";
import { fixtureJson, fixtureText, golden, hasFixtures } from "../fixtures.ts";

interface Golden {
  understand_prompts: string[];
  generate_prompts: string[];
  train_rows: { task: string; input_ids: number[] }[];
}

function load(layout: string): { tokenizer: Tokenizer; format: PromptFormat } {
  const files = {
    tokenizer: fixtureText(`${layout}/tokenizer.json`),
    config: fixtureText(`${layout}/tokenizer_config.json`),
  };
  const tokenizer = new Tokenizer(files);
  const chatTemplate = layout === "hf" ? fixtureText("hf/chat_template.jinja") : undefined;
  return {
    tokenizer,
    format: new PromptFormat(
      tokenizer,
      promptConfig({ processor: fixtureJson(`${layout}/processor_config.json`), chatTemplate }),
    ),
  };
}

const ask = (...parts: string[]): Message[] =>
  parts.map((content, i) => ({ role: i % 2 ? "assistant" : "user", content }));
const image = { type: "image" } as const;
const text = (words: string) => ({ type: "text", text: words }) as const;
const question = (words: string): Message[] => [{ role: "user", content: [image, text(words)] }];

describe.skipIf(!hasFixtures).each(["deepseek", "hf"])("prompts of the %s layout", (layout) => {
  const { tokenizer, format } = hasFixtures ? load(layout) : ({} as ReturnType<typeof load>);
  const reference = hasFixtures
    ? (fixtureJson("golden.json") as Golden)
    : { understand_prompts: [], generate_prompts: [], train_rows: [] };
  const specials = tokenizer?.specials;

  it("gives the ids and the mask of the image questions", () => {
    const written = [question("Describe this scene in detail."), question("What?")].map((messages) =>
      format.conversation(messages, { system: "" }),
    );
    expect(written).toEqual(reference.understand_prompts);
    const rows = written.map((prompt) => format.encode(prompt, 1));
    const batch = leftPad(rows, specials.pad);
    const [ids, mask] = [golden("und.input_ids"), golden("und.attention_mask")];
    expect([batch.rows, batch.length]).toEqual(ids.shape);
    expect([...batch.inputIds]).toEqual([...ids.data]);
    expect([...batch.attentionMask]).toEqual([...mask.data]);
    expect(batch.inputIds.filter((id) => id === specials.imagePlaceholder).length).toBe(2 * 64);
  });

  it("gives the ids of the image descriptions", () => {
    const prompts = ["a red circle", "An ancient stone bridge arching over a stream"];
    prompts.forEach((prompt, i) => {
      expect(format.generation(prompt)).toBe(reference.generate_prompts[i]);
      expect(format.encode(format.generation(`  ${prompt}\n`))).toEqual([...golden(`gen${i}.input_ids`).data]);
    });
  });

  it("gives the ids of the text row", () => {
    const ids = [...golden("text.input_ids").data];
    const row = tokenizer.decode(ids, { skipSpecials: false });
    const bos = tokenizer.tokenOf(specials.bos)!;
    expect(row.startsWith(bos)).toBe(true);
    expect(format.encode(row.slice(bos.length))).toEqual(ids);
  });

  it("gives the ids of the training rows, answers included", () => {
    for (const { task, input_ids: ids } of reference.train_rows) {
      if (task === "text") continue;
      // Back to what was asked, by the text between the tags; then forward again.
      const shown = tokenizer
        .decode(ids, { skipSpecials: false })
        .replace(/<begin_of_image>((<image_placeholder>)+)<end_of_image>/, "<image_placeholder>");
      const [, asked, answered] = /<\|User\|>: (.*?)\n\n<\|Assistant\|>:(?: ?(.*?)<｜end|<begin_of_image>)/s.exec(
        shown,
      )!;
      if (task === "gen")
        expect(format.encode(format.generation(asked!))).toEqual(ids.slice(0, ids.indexOf(specials.beginOfImage) + 1));
      else {
        const conversation = format.conversation(ask(asked!, answered!), { system: "", answer: false });
        expect(format.encode(conversation, 1)).toEqual(ids);
      }
    }
  });

  it("writes conversations as the original does", () => {
    // use_default_system_prompt is false in the fixture of the hf layout.
    const before = layout === "hf" ? "" : `${DEFAULT_SYSTEM_PROMPT}\n\n`;
    expect(format.conversation(ask("Hi"))).toBe(`${before}<|User|>: Hi\n\n<|Assistant|>:`);
    expect(format.conversation(ask(" a \n", "\tb ", "c", ""), { system: "S" })).toBe(
      "S\n\n<|User|>: a\n\n<|Assistant|>: b<｜end▁of▁sentence｜><|User|>: c\n\n<|Assistant|>:",
    );
    expect(format.conversation(ask("a", "b"), { system: "", answer: false })).toBe(
      "<|User|>: a\n\n<|Assistant|>: b<｜end▁of▁sentence｜>",
    );
    expect(format.conversation(ask("<image_placeholder>\nWhat?"), { system: "" })).toBe(
      reference.understand_prompts[1],
    );
    const mixed: Message[] = [{ role: "user", content: [text("Compare"), image] }];
    expect(format.conversation(mixed, { system: "" })).toBe("<|User|>: Compare\n<image_placeholder>\n\n<|Assistant|>:");
    expect(format.conversation([{ role: "user", content: [image] }], { system: "" })).toBe(
      "<|User|>: <image_placeholder>\n\n<|Assistant|>:",
    );
    // What Python strips, and what it leaves. (A template's own `trim` is JavaScript's, and takes U+FEFF.)
    const odd = format.conversation(ask("\u001c\u0085\u3000x\ufeff\u00a0"), { system: "" });
    expect(odd).toBe(`<|User|>: x${layout === "hf" ? "" : "\ufeff"}\n\n<|Assistant|>:`);
  });

  it("writes several images, each on its line", () => {
    const messages: Message[] = [
      { role: "user", content: [image, image, text("Which?")] },
      ...ask("", "The first.", "Why?").slice(1),
    ];
    const written = format.conversation(messages, { system: "" });
    // The checkpoint's template leaves a blank line between images.
    const between = layout === "hf" ? "\n\n" : "\n";
    expect(written).toBe(
      `<|User|>: <image_placeholder>${between}<image_placeholder>\nWhich?\n\n<|Assistant|>: The first.<｜end▁of▁sentence｜><|User|>: Why?\n\n<|Assistant|>:`,
    );
    const ids = format.encode(written, 2);
    expect(ids.filter((id) => id === specials.imagePlaceholder).length).toBe(128);
    expect([ids.indexOf(specials.beginOfImage), ids.indexOf(specials.endOfImage)]).toEqual([4, 69]);
  });

  it("refuses what cannot be asked", () => {
    const wrong: [() => unknown, RegExp][] = [
      [() => format.conversation(ask(" \n\u3000")), /the prompt is empty/],
      [() => format.conversation([{ role: "user", content: [text(" ")] }]), /the prompt is empty/],
      [() => format.conversation([]), /must be a question/],
      [() => format.conversation(ask("a", "b")), /must be a question/],
      [() => format.conversation([...ask("a"), ...ask("b")]), /message 1: role must be "assistant".*; got "user"/],
      [
        () => format.conversation([{ role: "system" as "user", content: "x" }]),
        /message 0: role must be "user".*; got "system"\. A system prompt is the option system/,
      ],
      [() => format.generation("  "), /the prompt is empty/],
      [() => format.encode("no image", 1), /names 0 images and 1 came; <image_placeholder> stands once for each/],
      [() => format.encode("<image_placeholder><image_placeholder>", 1), /names 2 images and 1 came/],
      [() => format.encode("<image_placeholder>"), /names 1 image and 0 came/],
      [() => checkContext([1, 2, 3], 14, 16), /the prompt has 3 tokens and 14 are to follow; the context has 16/],
    ];
    for (const [run, message] of wrong) {
      expect(run).toThrow(PromptError);
      expect(run).toThrow(message);
    }
    expect(() => checkContext([1, 2, 3], 13, 16)).not.toThrow();
  });
});

describe.skipIf(!hasFixtures)("roles and templates", () => {
  const tokenizer = hasFixtures ? load("deepseek").tokenizer : ({} as Tokenizer);
  const config = { imageTokens: 4 };

  it("writes plain words where the tokenizer has no tags, or where they are asked for", () => {
    const declared = JSON.parse(fixtureText("deepseek/tokenizer.json")) as { added_tokens: { content: string }[] };
    declared.added_tokens = declared.added_tokens.filter(({ content }) => !content.startsWith("<|"));
    const old = new PromptFormat(new Tokenizer({ tokenizer: declared }), config);
    expect(old.conversation(ask("a", "b", "c"), { system: "" })).toBe(
      "User: a\n\nAssistant: b<｜end▁of▁sentence｜>User: c\n\nAssistant:",
    );
    expect(old.generation("x")).toBe("User: x\n\nAssistant:<begin_of_image>");
    const words = new PromptFormat(
      tokenizer,
      { ...config, chatTemplate: "{{ 1 }}" },
      { user: "User", assistant: "Assistant" },
    );
    expect(words.conversation(ask("a"), { system: "" })).toBe("User: a\n\nAssistant:");
  });

  it("takes the template of a checkpoint, and says when it fails", () => {
    const template =
      "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}{% if add_generation_prompt %}>{% endif %}";
    expect(
      new PromptFormat(tokenizer, { ...config, chatTemplate: template }).conversation(ask("a", "b", "c"), {
        system: "S",
      }),
    ).toBe("S\n\n[user]a[assistant]b[user]c>");
    expect(() => new PromptFormat(tokenizer, { ...config, chatTemplate: "{% for %}" })).toThrow(ConfigError);
    const raises = new PromptFormat(tokenizer, { ...config, chatTemplate: "{{ raise_exception('not so') }}" });
    expect(() => raises.conversation(ask("a"))).toThrow(ConfigError);
    expect(() => raises.conversation(ask("a"))).toThrow(/chat template fails: .*not so/);
  });

  it("reads the processor's files", () => {
    expect(promptConfig({})).toEqual({ imageTokens: 576, chatTemplate: undefined, system: DEFAULT_SYSTEM_PROMPT });
    expect(
      promptConfig({
        processor: { num_image_tokens: 64 },
        chatTemplate: "a",
        chatTemplateJson: { chat_template: "b" },
      }),
    ).toEqual({ imageTokens: 64, chatTemplate: "a", system: "" });
    expect(promptConfig({ processor: { chat_template: "c" } }).chatTemplate).toBe("c");
    expect(promptConfig({ chatTemplateJson: { chat_template: "b" } }).chatTemplate).toBe("b");
    // DeepSeek's own layout names its format; a template beside it is the base model's.
    expect(promptConfig({ processor: { sft_format: "deepseek" }, chatTemplate: "a" }).chatTemplate).toBeUndefined();
    for (const processor of [[], { num_image_tokens: 0 }, { num_image_tokens: "64" }, { sft_format: "plain" }]) {
      expect(() => promptConfig({ processor })).toThrow(ConfigError);
    }
  });
});

describe("batches", () => {
  it("pads on the left and counts positions from each row's first token", () => {
    const batch = leftPad([[1, 2, 3], [4], []], 9);
    expect([batch.rows, batch.length]).toEqual([3, 3]);
    expect([...batch.inputIds]).toEqual([1, 2, 3, 9, 9, 4, 9, 9, 9]);
    expect([...batch.attentionMask]).toEqual([1, 1, 1, 0, 0, 1, 0, 0, 0]);
    expect([...batch.positions]).toEqual([0, 1, 2, 0, 0, 0, 0, 0, 0]);
    expect(leftPad([], 9).inputIds.length).toBe(0);
  });
  it("keeps the first and last token of an unconditional row", () => {
    expect(unconditionalRow([1, 5, 6, 7, 2], 9)).toEqual([1, 9, 9, 9, 2]);
    expect(unconditionalRow([1, 2], 9)).toEqual([1, 2]);
    // A pad token inside a row is a token like any other: it is attended.
    expect([...leftPad([unconditionalRow([1, 5, 2], 9), [1, 2]], 9).attentionMask]).toEqual([1, 1, 1, 0, 1, 1]);
  });
});

it("texts beyond all contexts are refused", () => {
  const tokenizer = new Tokenizer({ tokenizer: new TextDecoder().decode(byteTokenizerFiles().get("tokenizer.json")) });
  expect(() => new PromptFormat(tokenizer, { imageTokens: 4 }).encode("a".repeat(5_000_000))).toThrow(
    /5000000 characters; at most 1048576/,
  );
});
