/** A seed for a request that gave none, with room for `count` in a row. */
export const anySeed = (count: number): number => Math.floor(Math.random() * (0xffffffff - count + 2));
