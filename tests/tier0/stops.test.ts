/** Stop strings: the same end however the text comes in pieces, and nothing lost. */
import { expect, it } from "vitest";
import { Stops } from "../../model/stops.ts";

/** What comes out of `pieces`, and whether a stop string came. */
function run(pieces: readonly string[], stops: readonly string[]): [string, boolean] {
  const matcher = new Stops(stops);
  const text = pieces.map((piece) => matcher.push(piece)).join("") + matcher.flush();
  return [text, matcher.stopped];
}

it("ends before the first complete stop string; what only began as one comes out", () => {
  expect(run(["hello wor", "ld"], ["o w"])).toEqual(["hell", true]);
  expect(run(["ab", "ab", "c"], ["abc"])).toEqual(["ab", true]);
  expect(run(["ab", "ab"], ["abc"])).toEqual(["abab", false]); // held back until the end
  expect(run(["x"], [])).toEqual(["x", false]);
  expect(run(["baca"], ["bac", "a"])).toEqual(["b", true]); // "a" is complete before "bac"
  expect(run(["xab"], ["ab", "b"])).toEqual(["x", true]); // both end together: the longer one
});

it("does not depend on the pieces", () => {
  let seed = 7;
  const next = (n: number): number => (seed = (seed * 48271) % 2147483647) % n;
  const word = (length: number): string => Array.from({ length }, () => "abc"[next(3)]).join("");
  for (let i = 0; i < 20_000; i++) {
    const [text, stops] = [word(1 + next(12)), Array.from({ length: 1 + next(3) }, () => word(1 + next(4)))];
    const pieces: string[] = [];
    for (let at = 0; at < text.length;) pieces.push(text.slice(at, (at += 1 + next(3))));
    expect(run(pieces, stops), `${text} ${stops.join()}`).toEqual(run([text], stops));
  }
});
