/**
 * Removes lines that Dawn prints to the user's terminal. Dawn writes them from native code to file descriptor 2,
 * bypassing `process.stderr`, and has no setting for it. Node only; platform.ts imports this on demand, so browser
 * bundles do not contain it.
 */

/** Matches lines about limits that we do not use: dynamic offsets beyond 16 per layout. */
const DROPPED = /^Warning: maxDynamic(?:Uniform|Storage)BuffersPerPipelineLayout artificially reduced from .*\r?\n?/gm;

/** Returns `text` without Dawn's notices. */
export const withoutDawnNotices = (text: string): string => text.replace(DROPPED, "");

type Filter = <T>(call: () => T) => T;

let filter: Promise<Filter> | null = null;

/**
 * Resolves to a function that runs a synchronous native call, buffers the output to stderr during the call, and then
 * writes it without Dawn's notices. Without koffi (an optional package), on Windows, or without a writable temporary
 * folder, the call runs unfiltered.
 */
export function stderrFilter(): Promise<Filter> {
  filter ??= openFilter().catch(() => (call) => call());
  return filter;
}

async function openFilter(): Promise<Filter> {
  if (process.platform === "win32") return (call) => call();
  const fs = process.getBuiltinModule("node:fs");
  const { tmpdir } = process.getBuiltinModule("node:os");
  const nodePath = process.getBuiltinModule("node:path");
  const name = "koffi"; // a variable, so that no bundler follows it
  const { default: koffi } = (await import(
    /* @vite-ignore */ /* webpackIgnore: true */ name
  )) as typeof import("koffi");
  const libc = koffi.load(null);
  const dup = libc.func("int dup(int)") as (fd: number) => number;
  const dup2 = libc.func("int dup2(int, int)") as (from: number, to: number) => number;
  // A file rather than a pipe: a full pipe would block the writer, since nothing reads it during the call.
  return (call) => {
    const folder = fs.mkdtempSync(nodePath.join(tmpdir(), "janus-stderr-"));
    const path = nodePath.join(folder, "log");
    const file = fs.openSync(path, "a");
    const saved = dup(2);
    const isRedirected = saved >= 0 && dup2(file, 2) >= 0;
    try {
      return call();
    } finally {
      if (isRedirected) dup2(saved, 2);
      if (saved >= 0) fs.closeSync(saved);
      fs.closeSync(file);
      const text = withoutDawnNotices(fs.readFileSync(path, "utf8"));
      fs.rmSync(folder, { recursive: true });
      if (text) process.stderr.write(text);
    }
  };
}
