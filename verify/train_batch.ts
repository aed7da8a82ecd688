/**
 * The batch of golden training: `train_rows` as samples of the trainer, each in its own row. Everything is checked
 * here, as in inputs.ts.
 */
import { imageTokens } from "../model/janus/config.ts";
import { IGNORE, imageSample, layRows, textSample } from "../train/samples.ts";
import type { PackedRows, Sample } from "../train/samples.ts";
import { UnusableInput } from "./inputs.ts";
import type { GoldenInputs } from "./inputs.ts";
import { parseBatch } from "./train_file.ts";
import type { TrainRow } from "./train_file.ts";

/** The samples with one choice of images for the rows that have some. */
export interface GoldenBatch {
  readonly samples: readonly Sample[];
  /** Their indices in `vision.pixels`, in the order of the rows. */
  readonly pictures: readonly number[];
}

/** Returns the index in `vision.pixels` of image `k` of the batch; `inRow` is its position in its row. */
type Choice = (inRow: number, k: number) => number;

/**
 * The README names image 1 for one row with one image. Which ones several of them have, no file says: each row from 1, all of the
 * batch from 1 on, all of it from 0 on. Only one of these can give the golden loss.
 */
const CHOICES: readonly Choice[] = [(inRow) => 1 + inRow, (_, k) => 1 + k, (_, k) => k];

/** The batch with each choice of images that differs from the others, the likeliest first. Throws `UnusableInput`. */
export async function goldenBatches(inputs: GoldenInputs): Promise<GoldenBatch[]> {
  const rows = parseBatch(inputs.golden);
  if (!rows?.length) throw new UnusableInput("golden.json has no train_rows");
  for (const [r, row] of rows.entries()) checkRow(row, `train_rows[${r}]`, inputs);
  const { imagePlaceholder: placeholder } = inputs.processor.tokenizer.specials;
  const tokens = imageTokens(inputs.config);
  const counts = rows.map(({ task, ids }, r) => {
    const places = task === "gen" ? 0 : ids.filter((id) => id === placeholder).length;
    if (places % tokens)
      throw new UnusableInput(`train_rows[${r}] has ${places} image placeholders; an image takes ${tokens}`);
    return places / tokens;
  });
  const all = counts.reduce((a, b) => a + b, 0);
  const pixels = all ? await inputs.pixels() : null;
  const batches: GoldenBatch[] = [];
  for (const choice of all === 1 ? CHOICES.slice(0, 1) : CHOICES) {
    let k = 0;
    const pictures = counts.map((count) => Array.from({ length: count }, (_, inRow) => choice(inRow, k++)));
    const flat = pictures.flat();
    if (batches.some((batch) => batch.pictures.join() === flat.join())) continue;
    if (flat.some((picture) => picture >= pixels!.shape[0]!)) continue;
    const size = pixels ? pixels.data.length / pixels.shape[0]! : 0;
    const picture = (i: number): Float32Array => Float32Array.from(pixels!.data.subarray(i * size, (i + 1) * size));
    batches.push({
      pictures: flat,
      samples: rows.map(({ task, ids, labels }, r) =>
        task === "gen"
          ? imageSample(ids, labels, null, `train_rows[${r}]`)
          : textSample(task, ids, labels, pictures[r]!.map(picture), placeholder, `train_rows[${r}]`),
      ),
    });
  }
  if (!batches.length)
    throw new UnusableInput(`train_rows have ${all} images from image 1 on; there are ${pixels!.shape[0]}`);
  return batches;
}

function checkRow({ task, ids, labels }: TrainRow, name: string, { config }: GoldenInputs): void {
  const { vocabulary, maxPositions } = config.language;
  const check = (of: string, values: readonly number[], limit: number, mayBeIgnored: boolean): void => {
    const wrong = values.find(
      (value) => !(Number.isInteger(value) && value >= 0 && value < limit) && !(mayBeIgnored && value === IGNORE),
    );
    if (wrong !== undefined)
      throw new UnusableInput(
        `${name}.${of} holds ${wrong}; whole numbers from 0 to ${limit - 1}${mayBeIgnored ? ` or ${IGNORE}` : ""}`,
      );
  };
  check("input_ids", ids, vocabulary, false);
  check("labels", labels, task === "gen" ? config.vq.codes : vocabulary, task !== "gen");
  if (task !== "gen" && labels.length !== ids.length)
    throw new UnusableInput(`${name} has ${ids.length} input_ids and ${labels.length} labels; they line up`);
  const length = task === "gen" ? ids.length + labels.length - 1 : ids.length;
  if (length < 1 || length > maxPositions)
    throw new UnusableInput(`${name} has ${length} tokens; 1 to ${maxPositions} of them fit the model`);
}

/** The samples of a batch as rows of the longest one's length, each alone in its row. */
export function separateRows({ samples }: GoldenBatch, { config, processor }: GoldenInputs): PackedRows {
  return layRows(
    samples.map((sample) => [sample]),
    Math.max(...samples.map(({ ids }) => ids.length)),
    processor.tokenizer.specials.pad,
    imageTokens(config),
  );
}
