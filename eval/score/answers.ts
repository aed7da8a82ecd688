/** Answers out of free text, by the rules of VLMEvalKit (yes/no, letters) and of MMMU's own code. */
import { SPACE, float, length, round2, strip, words } from "../python.ts";

/** Punctuation of VQA's evaluation, as VLMEvalKit applies it. */
const PUNCTUATION = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]; // prettier-ignore

/** Removes punctuation: without a trace beside a space or if a number has a thousands comma, else in exchange for a space. */
export function withoutPunctuation(text: string): string {
  let out = text;
  const hasComma = /\p{Nd},\p{Nd}/u.test(text);
  for (const mark of PUNCTUATION) {
    const isLoose = text.includes(`${mark} `) || text.includes(` ${mark}`) || hasComma;
    out = out.replaceAll(mark, isLoose ? "" : " ");
  }
  // The official code passes re.UNICODE (32) as the count of replacements.
  let left = 32;
  return out.replace(/(?<!\p{Nd})\.(?!\p{Nd})/gu, (dot) => (left-- > 0 ? "" : dot));
}

/** Yes or No if exactly one of the two is a word of the answer, else Unknown. */
export function yesNo(answer: string): "Yes" | "No" | "Unknown" {
  const found = words(withoutPunctuation(answer.toLowerCase()));
  const [yes, no] = [found.includes("yes"), found.includes("no")];
  return yes === no ? "Unknown" : yes ? "Yes" : "No";
}

/** Answers that VLMEvalKit counts as a refusal, "Z". */
const REFUSALS = [
  "Sorry, I can't help with images of people yet.",
  "I can't process this file.",
  "I'm sorry, but without the image provided",
  "Cannot determine the answer",
];
const VERBOSE = new RegExp(`(?:correct${SPACE}+)?answer${SPACE}+is${SPACE}+\\**([ABCD])\\**`, "iu");

/** A letter that stands alone among the last four words, or follows "answer is"; null if there is none. "Z" refuses. */
function choiceLetter(answer: string, letters: readonly string[]): string | null {
  if (answer.includes("Failed to obtain answer via API")) return null;
  if (REFUSALS.some((refusal) => answer.includes(refusal))) return "Z";
  const split = words(answer.replace(/[.()[\],:;!*#{}]/g, " "));
  const found = letters.filter((letter) => split.includes(letter));
  if (found.length === 1 && split.indexOf(found[0]!) > split.length - 5) return found[0]!;
  if (found.length === 0 && split.includes("Z")) return "Z";
  const letter = VERBOSE.exec(answer)?.[1]?.toUpperCase();
  return letter !== undefined && letters.includes(letter) ? letter : null;
}

/** The only option whose text is in the answer; null if there is none, several, or the answer is more than twice as long as all options. */
function choiceText(answer: string, options: ReadonlyMap<string, string>): string | null {
  const lower = answer.toLowerCase();
  let total = 0;
  for (const text of options.values()) total += length(text);
  if (length(lower) > 2 * total) return null;
  const found = [...options].filter(([, text]) => lower.includes(text.toLowerCase()));
  return found.length === 1 ? found[0]![0] : null;
}

/** The letter that an answer means ("Z": a refusal), null if it cannot be told without a judge. VLMEvalKit's `can_infer`. */
export const choice = (answer: string, options: ReadonlyMap<string, string>): string | null =>
  choiceLetter(answer, [...options.keys()]) ?? choiceText(answer, options);

/** MMMU's own rule for letters; null where the official code draws a letter at random. */
export function officialChoice(answer: string, options: ReadonlyMap<string, string>): string | null {
  let text = answer;
  for (const mark of [",", ".", "!", "?", ";", ":", "'"]) text = strip(text, mark);
  text = ` ${text} `;
  const letters = [...options.keys()];
  const last = (places: readonly (readonly [string, number])[]): string | null =>
    places.reduce<readonly [string, number] | null>((best, one) => (best && best[1] >= one[1] ? best : one), null)?.[0] ?? null; // prettier-ignore
  const bracketed = letters.filter((letter) => text.includes(`(${letter})`));
  if (bracketed.length > 0) return last(bracketed.map((letter) => [letter, text.lastIndexOf(`(${letter})`)]));
  const alone = letters.filter((letter) => text.includes(` ${letter} `));
  if (alone.length > 0) return last(alone.map((letter) => [letter, text.lastIndexOf(` ${letter} `)]));
  if (words(text).length <= 5) return null;
  const lower = text.toLowerCase();
  const named = letters.filter((letter) => lower.includes(options.get(letter)!.toLowerCase()));
  return last(named.map((letter) => [letter, lower.lastIndexOf(options.get(letter)!.toLowerCase())]));
}

type Normal = string | number;

/** A number rounded to two places, or a text in lower case; a single letter with a space on either side. */
function normalised(text: string): Normal[] {
  const stripped = strip(text);
  const number = float(stripped.replaceAll(",", ""));
  if (number !== null) return [round2(number)];
  const lower = stripped.toLowerCase();
  return length(lower) === 1 ? [` ${lower}`, `${lower} `] : [lower];
}

// Python's \d is any decimal digit, and its \b knows the letters of all scripts.
const DIGIT = "\\p{Nd}";
const WORD = "[\\p{L}\\p{N}_]";
const BOUNDARY = `(?:(?<=${WORD})(?!${WORD})|(?<!${WORD})(?=${WORD}))`;
const NUMBERS = [
  new RegExp(`-?${BOUNDARY}${DIGIT}{1,3}(?:,${DIGIT}{3})+${BOUNDARY}`, "gu"),
  new RegExp(`-?${DIGIT}+(?:\\.${DIGIT}+)?[eE][+-]?${DIGIT}+`, "gu"),
  new RegExp(`-?(?:${DIGIT}+\\.${DIGIT}+|\\.${DIGIT}+|${DIGIT}+${BOUNDARY})(?![eE][+-]?${DIGIT}+)(?![,\\p{Nd}])`, "gu"),
];
const KEYS = ["could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "];

/** The parts of an open answer that may hold the result: what follows the last "is", "answer", "=" and the like of each line. */
function keyParts(answer: string): string[] {
  const text = strip(strip(answer), ".").toLowerCase();
  const lines = text.split("\n"); // the official pattern also splits at ". A", which lower-casing leaves none of
  const parts: string[] = [];
  for (const [i, line] of lines.entries()) {
    const keys = i === lines.length - 1 ? [...KEYS, "="] : KEYS;
    let shortest: string | null = null;
    for (const key of keys) {
      if (!line.includes(key)) continue;
      const tail = strip(line.slice(line.lastIndexOf(key) + key.length));
      if (!shortest || length(tail) < length(shortest)) shortest = tail;
    }
    if (shortest && !":,.!?;'".split("").includes(strip(shortest))) parts.push(shortest);
  }
  return parts.length === 0 ? [text] : parts;
}

/** All that an open answer may mean: texts and numbers. MMMU's `parse_open_response`. */
export function openAnswers(answer: string): Normal[] {
  const parts = keyParts(answer);
  const numbers = parts.flatMap((part) => NUMBERS.flatMap((pattern) => part.match(pattern) ?? []));
  return [...new Set([...parts, ...numbers].flatMap(normalised))];
}

/** Whether one of the parsed answers is one of the expected: numbers by value, texts if they contain it. MMMU's `eval_open`. */
export function isOpenAnswer(parsed: readonly Normal[], expected: readonly string[]): boolean {
  const wanted = expected.flatMap(normalised);
  return parsed.some((one) =>
    typeof one === "number" ? wanted.includes(one) && !Number.isNaN(one) : wanted.some((text) => typeof text === "string" && one.includes(text)),
  ); // prettier-ignore
}

const ARTICLES = ["a", "an", "the"];
const NUMBER_WORDS: Readonly<Record<string, string>> = {
  none: "0", zero: "0", one: "1", two: "2", three: "3", four: "4", five: "5", six: "6", seven: "7", eight: "8", nine: "9", ten: "10",
}; // prettier-ignore

/** Contractions of VQA's evaluation. It mends words that lack one of their apostrophes, where that does not make another word ("well", "shell"). */
const CONTRACTIONS = words(`
  ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd've he's
  how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
  oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
  someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
  they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
  where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
  y'all y'all'll y'all'd've you'd you'd've you'll you're you've`);
const MENDED = new Map(CONTRACTIONS.flatMap((word) => word.split("").flatMap((c, i) => (c === "'" ? [[word.slice(0, i) + word.slice(i + 1), word] as const] : [])))); // prettier-ignore
// As the official table has them: "hed" is no word but is mended, and this one loses its apostrophe.
MENDED.set("hed", "he'd").set("somebody'd", "somebodyd");

/** VQA's normalisation: punctuation, number words, articles, contractions. */
export function vqaText(text: string): string {
  const plain = withoutPunctuation(strip(text.replaceAll("\n", " ").replaceAll("\t", " "))).toLowerCase();
  return words(plain).map((word) => NUMBER_WORDS[word] ?? word).filter((word) => !ARTICLES.includes(word)).map((word) => MENDED.get(word) ?? word).join(" "); // prettier-ignore
}
