/** For every test file: the default device of one file is not that of the next, which may run in the same process. */
import { afterAll } from "vitest";
import { setDevice } from "../index.ts";

afterAll(() => setDevice(null));
