/** What a record of the data says, before it is tokens. */
import type { Message } from "../../model/janus/prompt.ts";

/** A sample as it was written down; images are absolute paths, or whatever names them to the encoder's reader. */
export type RawSample =
  | {
      readonly task: "und";
      readonly messages: readonly Message[];
      readonly system?: string;
      /** In the order of the image parts. */
      readonly images: readonly string[];
    }
  | { readonly task: "text"; readonly text: string }
  | { readonly task: "text"; readonly messages: readonly Message[]; readonly system?: string }
  | { readonly task: "gen"; readonly prompt: string; readonly image: string };
