/** What only Node can do: files and folders, and models from the hub. The rest of `model/` takes bytes and loads in browsers. */
export { FileError, folderSource, openFile, writeFileAtomic, writeFolderAtomic } from "./files.ts";
export * from "./hub.ts";
export * from "./image_file.ts";
export * from "./janus.ts";
