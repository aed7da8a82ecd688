/** Conversations and pictures in the browser's storage (IndexedDB), and their export. */
import { createStore, del, entries, set } from "idb-keyval";
import type { Drawn, Turn } from "./backend.ts";
import { dataUrl, pngOf } from "./pixels.ts";

export interface Chat {
  readonly kind: "chat";
  readonly id: string;
  readonly at: number;
  readonly turns: readonly Turn[];
}

export interface Picture {
  readonly kind: "picture";
  readonly id: string;
  readonly at: number;
  readonly drawn: Drawn;
}

export type Item = Chat | Picture;

const store = createStore("janus-webgpu", "history");

export const newId = (): string => `${Date.now()}-${Math.floor(Math.random() * 1e6)}`;

export const keep = (item: Item): Promise<void> => set(item.id, item, store);
export const forget = (id: string): Promise<void> => del(id, store);

/** Everything, the newest first; nothing if the browser stores nothing. */
export async function items(): Promise<Item[]> {
  const all = await entries<string, Item>(store).catch(() => []);
  return all.map(([, item]) => item).sort((a, b) => b.at - a.at);
}

/** All of it as JSON, with images as data URLs. */
export async function exported(): Promise<string> {
  const all = await Promise.all(
    (await items()).map(async (item) => {
      const at = new Date(item.at).toISOString();
      if (item.kind === "picture") {
        const { image, ...how } = item.drawn;
        return { kind: item.kind, at, ...how, png: await dataUrl(await pngOf(image)) };
      }
      const turns = item.turns.map(async ({ role, text, images }) => ({
        role,
        text,
        images: await Promise.all(images.map(dataUrl)),
      }));
      return { kind: item.kind, at, turns: await Promise.all(turns) };
    }),
  );
  return JSON.stringify({ version: 1, items: all }, null, 2);
}
