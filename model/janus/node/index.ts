/** Functions that need Node: files, folders and image files, Janus from folders and from the hub. */
export * from "../../node/index.ts";
export * from "./hub.ts";
export * from "./janus.ts";
