/** Errors as OpenAI's API writes them. No message of the machine (paths, stacks, addresses) goes into an answer. */
import {
  ArgumentError,
  DeviceError,
  DeviceLostError,
  DisposedError,
  JanusError,
  NotFiniteError,
  OutOfMemoryError,
} from "../engine/errors.ts";
import { ImageError } from "../model/image/image.ts";
import { MissingPartError } from "../model/io/errors.ts";
import { PromptError } from "../model/request.ts";

export type ApiErrorType =
  | "invalid_request_error"
  | "authentication_error"
  | "permission_error"
  | "rate_limit_error"
  | "server_error";

export interface ApiErrorOptions {
  readonly type?: ApiErrorType;
  readonly code?: string;
  /** The field of the request that is at fault. */
  readonly param?: string;
  /** Seconds after which the request may be sent again. */
  readonly retryAfterS?: number;
}

export class ApiError extends JanusError {
  readonly status: number;
  readonly type: ApiErrorType;
  readonly code: string | null;
  readonly param: string | null;
  readonly retryAfterS: number | null;

  constructor(status: number, message: string, options: ApiErrorOptions = {}) {
    super(message);
    this.status = status;
    this.type = options.type ?? (status < 500 ? "invalid_request_error" : "server_error");
    this.code = options.code ?? null;
    this.param = options.param ?? null;
    this.retryAfterS = options.retryAfterS ?? null;
  }

  /** The body of the answer. */
  get body(): { readonly error: object } {
    const { message, type, param, code } = this;
    return { error: { message, type, param, code } };
  }
}

/** A request that is wrong. */
export const invalid = (message: string, param?: string, code?: string): ApiError =>
  new ApiError(400, message, { ...(param !== undefined && { param }), ...(code !== undefined && { code }) });

/** The server cannot answer now. */
export const unavailable = (message: string, code: string, retryAfterS: number): ApiError =>
  new ApiError(503, message, { code, retryAfterS });

/** True if the device is gone, and with it all that was computed on it. */
export const isDeviceLoss = (error: unknown): boolean =>
  error instanceof DeviceLostError || error instanceof DisposedError;

/** What an error means for the client. */
export function apiErrorOf(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof PromptError) return invalid(error.message, undefined, /tokens/.test(error.message) ? "context_length_exceeded" : "invalid_prompt"); // prettier-ignore
  if (error instanceof ImageError) return invalid(error.message, undefined, "invalid_image");
  if (error instanceof MissingPartError) return invalid(error.message, "model", "unsupported_by_model");
  if (error instanceof ArgumentError) return invalid(error.message);
  if (isDeviceLoss(error)) return unavailable("the device was lost; the server opens it again", "device_lost", 10);
  if (error instanceof OutOfMemoryError)
    return unavailable("the device has no memory for this request now", "out_of_memory", 5);
  if (error instanceof NotFiniteError)
    return new ApiError(500, "the model computed values that are not finite", { code: "not_finite" });
  if (error instanceof DeviceError) return unavailable("the device does not answer", "device_error", 10);
  return new ApiError(500, "the server made a mistake; its log has more", { code: "internal_error" });
}
