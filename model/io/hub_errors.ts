/** The errors of the Hugging Face hub, in Node and in browsers. */
import { IoError } from "./errors.ts";

/** A model that could not be fetched from the hub. Base of the errors below. */
export class HubError extends IoError {}

/** No such model, revision or file. */
export class HubNotFoundError extends HubError {}

/** The hub wants a token, or another one. */
export class HubAccessError extends HubError {}

/** The hub cannot be reached, or the connection broke and did not come back. What was received is kept for the next try. */
export class HubNetworkError extends HubError {}

/** The download differs from the hub's listing, in length or hash. It was removed. */
export class HubIntegrityError extends HubError {}

/** Offline mode is on and the model is not, or not wholly, in the cache. */
export class HubOfflineError extends HubError {}
