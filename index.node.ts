/**
 * janus-webgpu in Node: what browsers have, with models from folders and the hub, and images and modules as files.
 *
 * @module janus-webgpu
 */
export * from "./index.ts";
export { Janus, encodePicture, readImage, readPicture, savePicture } from "./model/janus/node/index.ts";
export type { PretrainedOptions } from "./model/janus/node/index.ts";
export { load, save } from "./model/node/state_file.ts";
