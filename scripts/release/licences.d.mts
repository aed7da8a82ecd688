export function licences(lock?: unknown): {
  readonly name: string;
  readonly version: string;
  readonly licence: string;
  readonly reason: string | null;
  readonly isFit: boolean;
}[];
