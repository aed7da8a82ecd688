export interface Block {
  readonly page: string;
  readonly line: number;
  readonly language: string;
  readonly file: string | null;
  readonly code: string;
  readonly skip: string | null;
  readonly long: string | null;
  readonly output: string | null;
}
export const RUNNABLE: readonly string[];
export const SHOWN: readonly string[];
export function pages(): string[];
export function blocksOf(page: string, text?: string): Block[];
export function modules(): Block[];
export function placeOf(block: Block): string;
