/** What the errors of files and formats are: all `IoError`, and `CheckpointError` only if what a file contains is at fault. */
import { expect, it } from "vitest";
import * as io from "../../model/io/errors.ts";
import { FileError, requireRoom } from "../../model/node/files.ts";
import { HubError } from "../../model/node/hub_settings.ts";
import { TokenizerError } from "../../model/tokenizer.ts";
import { RunFolderError, SaveError } from "../../train/node/run/errors.ts";
import { GoldenError } from "../../verify/file.ts";
import { errorOf } from "../gpu.ts";

it("a full disk is no fault of a checkpoint", async () => {
  const error = await errorOf(() => requireRoom("/", 1, "a checkpoint", () => Promise.resolve(0)));
  expect(error).toBeInstanceOf(FileError);
  expect((error as FileError).code).toBe("ENOSPC");
  expect(error).toBeInstanceOf(io.IoError);
  expect(error).not.toBeInstanceOf(io.CheckpointError);
});

it.each([
  ["FileError", new FileError("x", "ENOENT"), false],
  ["HubError", new HubError("x"), false],
  ["RunFolderError", new RunFolderError("x"), false],
  ["SaveError", new SaveError("x", 1, "ENOSPC", null), false],
  ["GoldenError", new GoldenError("x"), false],
  ["JsonError", new io.JsonError("x"), true],
  ["SafetensorsError", new io.SafetensorsError("x"), true],
  ["ZipError", new io.ZipError("x"), true],
  ["UnsafePickleError", new io.UnsafePickleError("x", "os.system"), true],
  ["ShardIndexError", new io.ShardIndexError("x"), true],
  ["ConfigError", new io.ConfigError("x"), true],
  ["TensorMismatchError", new io.TensorMismatchError("x", []), true],
  ["TokenizerError", new TokenizerError("x"), true],
] as const)("%s", (_, error, isOfContent) => {
  expect(error).toBeInstanceOf(io.IoError);
  expect(error instanceof io.CheckpointError).toBe(isOfContent);
});
