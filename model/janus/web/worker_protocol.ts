/** Messages between a page and the Worker that has its model, and errors across them. */
import * as engine from "../../../engine/errors.ts";
import { ImageError, ImageFormatError, ImageLimitError } from "../../image/image.ts";
import * as hub from "../../io/hub_errors.ts";
import * as io from "../../io/errors.ts";
import { PromptError } from "../../request.ts";
import type { JanusConfig } from "../config.ts";
import { StorageError } from "../../web/store.ts";

/** Calls of the page; `callbacks` names the functions of the options, which stay there. */
export interface Call {
  readonly id: number;
  readonly name: string;
  readonly args: readonly unknown[];
  readonly callbacks: readonly string[];
}

export type ToWorker = Call | { readonly abort: number };

export type FromWorker =
  | { readonly id: number; readonly event: unknown }
  | { readonly id: number; readonly callback: string; readonly value: unknown }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: ErrorMessage }
  | { readonly lost: string };

export interface ErrorMessage {
  readonly kind: string;
  readonly message: string;
}

/** What the Worker says of a model. */
export interface ModelReport {
  readonly name: string;
  readonly config: JanusConfig;
  readonly fingerprint: string;
  readonly adapters: Readonly<Record<string, number>>;
  readonly missing: readonly string[];
  readonly device: {
    readonly name: string;
    readonly vendor: string;
    readonly architecture: string;
    readonly isSoftware: boolean;
    readonly f16: boolean;
  };
}

type ErrorClass = abstract new (...args: never[]) => Error;

/** By names that bundlers do not shorten. */
const KINDS: Readonly<Record<string, ErrorClass>> = Object.fromEntries(
  Object.entries<unknown>({
    ...engine,
    ...io,
    ...hub,
    StorageError,
    PromptError,
    ImageError,
    ImageFormatError,
    ImageLimitError,
  }).filter((entry): entry is [string, ErrorClass] => entry[0].endsWith("Error")),
);

export function errorMessage(error: unknown): ErrorMessage {
  const found = Object.entries(KINDS).find(([, kind]) => error instanceof Error && error.constructor === kind);
  const name = error instanceof Error ? error.name : "Error";
  return { kind: found?.[0] ?? name, message: engine.messageOf(error) };
}

/** The error of a message, of the same class as in the Worker. */
export function errorOf({ kind, message }: ErrorMessage): Error {
  const made: Error = kind === "AbortError" ? new DOMException(message, kind) : new Error(message);
  const known = KINDS[kind];
  if (!known) return made;
  Object.setPrototypeOf(made, known.prototype as object);
  return Object.defineProperty(made, "name", { value: kind, configurable: true });
}
