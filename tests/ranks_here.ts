/** Ranks in one process, over messages in memory. */
import { RankGroup } from "../train/rank_group.ts";

/** Ranks in this process: each passes on what it has and waits for the others. `bucket` is small, so that gradients are cut. */
export function ranksHere(size: number, bucket = 1000): RankGroup[] {
  const arrived: { parts: readonly Uint8Array[]; resolve: (all: Uint8Array[]) => void }[][] = Array.from({ length: size }, () => []); // prettier-ignore
  const exchange = (rank: number, parts: readonly Uint8Array[]): Promise<Uint8Array[]> => {
    const all = new Promise<Uint8Array[]>((resolve) => arrived[rank]!.push({ parts, resolve }));
    while (arrived.every((queue) => queue.length)) {
      const round = arrived.map((queue) => queue.shift()!);
      for (const [to, { resolve }] of round.entries()) resolve(round.map((from) => from.parts[to]!.slice()));
    }
    return all;
  };
  return Array.from({ length: size }, (_, rank) => {
    const allGather = (own: Uint8Array): Promise<Uint8Array[]> => exchange(rank, new Array(size).fill(own));
    return new RankGroup({ rank, size, allGather, allToAll: (parts) => exchange(rank, parts) }, { bucket });
  });
}
