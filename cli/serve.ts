/** `janus serve`: the model behind an HTTP API that OpenAI's clients speak, and the page for people. */
import { existsSync } from "node:fs";
import { basename, resolve } from "node:path";
import { Option } from "commander";
import type { ServerSettings } from "../serve/settings.ts";
import type { AddCommand, Context } from "./context.ts";
import { EXIT } from "./errors.ts";
import { memorySize, numberIn, wholeNumber } from "./options.ts";
import { addModelOptions, openJanus } from "./session.ts";
import type { ModelFlags } from "./session.ts";

interface ServeFlags extends ModelFlags {
  readonly host: string;
  readonly port: number;
  readonly apiKey?: string;
  readonly allowPublic?: boolean;
  readonly name?: string;
  readonly rows: number;
  readonly context?: number;
  readonly imageBatch: number;
  readonly queue: number;
  readonly timeout: number;
  readonly grace: number;
  readonly maxBody?: number;
  readonly maxPixels: number;
  readonly maxImages: number;
  readonly allowRemoteImages?: boolean;
}

export const addServe: AddCommand = (program, context) => {
  const command = program
    .command("serve")
    .summary("answer over HTTP, for OpenAI's clients and the page")
    .description(
      "Serve the model over HTTP: /v1/chat/completions, /v1/images/generations and /v1/models as OpenAI's clients use them, /health, /metrics, and the page at /. Logs are lines of JSON on standard output. Ctrl-C lets running requests finish (--grace); a second one ends at once.",
    )
    .option("--host <host>", "address to listen on; others than this machine's own need --api-key", "127.0.0.1")
    .addOption(new Option("--port <port>", "port; 0 takes a free one").argParser(wholeNumber(0, 65535)).default(8000))
    .addOption(
      new Option("--api-key <key>", "key that requests must bear (on shared machines use the variable)").env(
        "JANUS_API_KEY",
      ),
    )
    .option("--allow-public", "allow a public host without a key: everyone may use the model")
    .option("--name <name>", "name of the model in requests (default: that of --model, of a folder its last part)");
  addLimits(command);
  addModelOptions(command).action((flags: ServeFlags) => serve(flags, context));
};

function addLimits(command: Parameters<typeof addModelOptions>[0]): void {
  const whole = (flag: string, text: string, range: readonly [number, number], value: number): Option =>
    new Option(flag, text).argParser(wholeNumber(...range)).default(value);
  command
    .addOption(whole("--rows <n>", "answers that are computed at once", [1, 64], 16))
    .addOption(
      new Option(
        "--context <n>",
        "most tokens of a prompt and its answer (default: as many as the memory allows, at most 4,096)",
      ).argParser(wholeNumber(2, 2 ** 24)),
    )
    .addOption(whole("--image-batch <n>", "images that are drawn at once", [1, 64], 16))
    .addOption(whole("--queue <n>", "requests that may wait; more are refused with status 429", [0, 1e6], 256))
    .addOption(whole("--timeout <s>", "seconds that a request may take, waiting included", [1, 86_400], 600))
    .addOption(whole("--grace <s>", "seconds that running requests have to finish at the end", [0, 86_400], 30))
    .addOption(new Option("--max-body <size>", "largest body of a request (default: 32MiB)").argParser(memorySize))
    .addOption(new Option("--max-pixels <n>", "most pixels of an image").argParser(numberIn(1, 1e9)).default(16e6))
    .addOption(whole("--max-images <n>", "most images of a request", [0, 64], 8))
    .option("--allow-remote-images", "fetch images by http and https URLs, from public addresses only");
}

const settingsOf = (flags: ServeFlags): Partial<ServerSettings> & Pick<ServerSettings, "name"> => ({
  host: flags.host,
  port: flags.port,
  apiKey: flags.apiKey || null,
  allowPublic: flags.allowPublic ?? false,
  // The path of a folder is nobody's business.
  name: flags.name ?? (existsSync(flags.model) ? basename(resolve(flags.model)) : flags.model),
  rows: flags.rows,
  context: flags.context ?? null,
  imageBatch: flags.imageBatch,
  queue: flags.queue,
  timeoutS: flags.timeout,
  graceS: flags.grace,
  ...(flags.maxBody !== undefined && { bodyBytes: flags.maxBody }),
  pixels: flags.maxPixels,
  images: flags.maxImages,
  remoteImages: flags.allowRemoteImages ?? false,
});

async function serve(flags: ServeFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  const { checkSettings } = await import("../serve/settings.ts");
  const settings = checkSettings(settingsOf(flags)); // before the model is loaded
  const { startServer } = await import("../serve/server.ts");
  const server = await startServer({
    settings,
    open: () => openJanus(flags, context),
    write: (line) => out.text(`${line}\n`),
  });
  const { live } = server.host.model;
  out.note(`${settings.name} answers at ${server.url} (${live.rows} answers at once, ${live.capacity} tokens each)`);
  out.note(server.page ? `the page is at ${server.url}/` : "the page was not built; npm run build builds it");
  if (settings.apiKey === null && settings.allowPublic) out.warn("there is no API key: everyone who reaches this address may use the model"); // prettier-ignore
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
  out.note("stopping: running requests may finish");
  const cut = await server.stop();
  if (cut > 0) out.warn(`${cut} requests were ended before they were finished`);
  context.exitCode = cut > 0 ? EXIT.checkFailed : EXIT.done;
}
