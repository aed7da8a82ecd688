/** Data formats: dtypes, stored dtypes, block formats, and the fields of records. */
import { DTYPES } from "../../../engine/index.ts";
import { GGML_TYPES, OTHER_GGML_TYPES } from "../../../model/io/ggml.ts";
import { storedDTypes, storedElementBytes } from "../../../model/io/stored.ts";
import type { StoredDType } from "../../../model/io/stored.ts";
import { HARMLESS, LOSS_FIELDS, SAME, USED } from "../../../train/node/data/fields.ts";
import { INDEX_VERSION, MAX_RECORD } from "../../../train/node/data/index_format.ts";
import { code, page, table } from "./markdown.ts";

export function formatsPage(): string {
  const dtypes = Object.entries(DTYPES).map(([name, { bits, float }]) => [
    code(name),
    String(bits),
    float ? "float" : "integer",
  ]);
  const stored = storedDTypes().map((name) => [
    code(name),
    String(8 * storedElementBytes(name as StoredDType)),
    name in DTYPES ? "computes" : "is carried, or cast when a module takes it",
  ]);
  const blocks = [...GGML_TYPES.values()].map(({ name, block, bytes, packed }) => [
    code(name),
    String(block),
    String(bytes),
    packed ? `keeps its bits (${packed})` : "decoded to 16 bits",
  ]);
  const others = [...OTHER_GGML_TYPES.values()].map(code).join(", ");
  const fields = Object.entries(USED).map(([kind, names]) => [code(kind), [...names].map(code).join(", ")]);
  const body = `## Dtypes of tensors

${table(["dtype", "bits", "kind"], dtypes)}

f16 and bf16 are stored two to a 32-bit word, u8 four to a word. No GPU feature is needed for any of them.

## Dtypes in checkpoint files

${table(["dtype", "bits", "the engine"], stored)}

## Types in GGUF files

${table(["type", "weights in a block", "bytes of a block", "read as"], blocks)}

Refused by name: ${others}.

## Fields of training records

${table(["kind of record", "fields that are used"], fields)}

- Of ${SAME.map((names) => names.map(code).join(", ")).join(", and of ")}, the first that a record has is used.
- ${LOSS_FIELDS.map(code).join(", ")} switch the loss of a turn.
- These say nothing about training and are ignored: ${[...HARMLESS].map(code).join(", ")}.
- Any other field is refused, unless \`--ignore-field\` allows it.
- A record has at most ${MAX_RECORD / 2 ** 20} MiB. Indexes have version ${INDEX_VERSION}; others are made again.

[Which files are read](../data.md#which-files-are-read) describes the files that records come in, and
[the checkpoint format](../concepts/checkpoints.md) the folder of a model.`;
  return page("Data formats", "the tables of the readers", body);
}
