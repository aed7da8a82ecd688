/** GenEval's rule applied to the known contents of a scene: the truth with which the judge, which sees only pixels, is compared. */
import type { Prompt } from "./captions.ts";
import { boxOf, relations } from "./scene.ts";
import type { Scene } from "./scene.ts";

/** True if the scene satisfies the prompt; every object of a shape counts, whereas GenEval uses the best recognised one. */
export function holds({ objects }: Scene, { include, exclude }: Pick<Prompt, "include" | "exclude">): boolean {
  const of = (shape: string): Scene["objects"] => objects.filter((object) => object.shape === shape);
  return (
    include.every(({ shape, count, colour, position }) => {
      if (of(shape).length < count || (colour && of(shape).some((object) => object.colour !== colour))) return false;
      if (!position) return true;
      const [relation, target] = position;
      const targets = of(include[target]!.shape);
      return of(shape).every((a) => targets.every((b) => relations(boxOf(a), boxOf(b)).includes(relation)));
    }) && exclude.every(({ shape, count }) => of(shape).length < count)
  );
}
