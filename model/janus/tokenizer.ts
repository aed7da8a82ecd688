/** The tokenizer of Janus: that of a text model with tokens for images and roles. */
import { TextTokenizer } from "../tokenizer.ts";
import type { SpecialTokens, TextSpecialIds } from "../tokenizer.ts";

/** Ids of the tokens that have a meaning to the model. They differ between checkpoints. */
export interface SpecialIds extends TextSpecialIds {
  readonly pad: number;
  readonly beginOfImage: number;
  readonly endOfImage: number;
  readonly imagePlaceholder: number;
  /** The role tags of Janus-Pro; undefined if the tokenizer has none. */
  readonly user: number | undefined;
  readonly assistant: number | undefined;
}

/** The tokenizer of Janus: a `TextTokenizer` that knows the ids of the image tokens, and refuses files that lack them. */
export class Tokenizer extends TextTokenizer {
  declare readonly specials: SpecialIds;

  protected override get needs(): string {
    return "Janus needs";
  }

  /** Each by the string that a file declares for it, else by that of the published checkpoints. */
  protected override findSpecials({ declared, find, idOf }: SpecialTokens): SpecialIds {
    return {
      bos: find(...declared("bos_token"), "<｜begin▁of▁sentence｜>"),
      eos: find(...declared("eos_token"), "<｜end▁of▁sentence｜>"),
      // The other way round: files declare null or the end token here, and with that guidance goes wrong.
      pad: find("<｜▁pad▁｜>", ...declared("pad_token")),
      beginOfImage: find(...declared("boi_token"), "<begin_of_image>"),
      endOfImage: find(...declared("eoi_token"), "<end_of_image>"),
      imagePlaceholder: find(...declared("image_token"), "<image_placeholder>"),
      user: idOf("<|User|>"),
      assistant: idOf("<|Assistant|>"),
    };
  }
}
