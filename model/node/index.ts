/** Functions that need Node, for any model: files, folders and image files. The rest of `model/` takes bytes and loads in browsers. */
export { FileError, folderSource, openFile, writeFileAtomic, writeFolderAtomic } from "./files.ts";
export * from "./image_file.ts";
export { load, save } from "./state_file.ts";
