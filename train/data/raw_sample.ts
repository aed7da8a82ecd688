/** What a record of the data says, before it is tokens. */
import type { Message } from "../../model/janus/prompt.ts";

interface Conversation {
  readonly messages: readonly Message[];
  /** System prompt, "" for none (default: that of the encoder). */
  readonly system?: string;
  /** Answers that the model sees but is not trained on: indices of messages. */
  readonly untrained?: readonly number[];
  /** Of a preference: the answer that is worse than the last message. */
  readonly rejected?: string;
}

/** A sample as it was written down; images are absolute paths, or whatever names them to the encoder's reader. */
export type RawSample =
  | (Conversation & {
      readonly task: "und";
      /** In the order of the image parts. */
      readonly images: readonly string[];
    })
  | { readonly task: "text"; readonly text: string }
  | (Conversation & { readonly task: "text" })
  | {
      readonly task: "gen";
      readonly prompt: string;
      /** "" if the record is a prompt alone. */
      readonly image: string;
      /** Of a preference: the image that is worse. */
      readonly rejected?: string;
    };
