/** Downloads against a hub on this machine, which breaks off, lies about lengths, serves other bytes, ignores Range and redirects. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { IoError } from "../../model/io/errors.ts";
import { FileError } from "../../model/node/files.ts";
import { folderSource } from "../../model/node/files.ts";
import {
  HubAccessError,
  HubError,
  HubIntegrityError,
  HubNetworkError,
  HubNotFoundError,
  HubOfflineError,
  downloadModel,
  hubSettings,
  modelFolder,
} from "../../model/janus/node/hub.ts";
import type { DownloadOptions, DownloadProgress } from "../../model/janus/node/hub.ts";
import { HubServer, breakOff, gitSha, send, sha256, expectHubError as failure } from "../checkpoint/hub_server.ts";
import { random } from "../checkpoint/files.ts";
import { tinyFiles } from "../checkpoint/tiny.ts";

const REPO = "someone/Janus-tiny";
const next = random(1);
const weights = Uint8Array.from({ length: 300_000 }, () => next(256));
const WEIGHTS = "model.safetensors";
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

let home: string;
let hub: HubServer;
let servers: HubServer[];
const startHub = async (): Promise<HubServer> => {
  const server = await new HubServer().start();
  servers.push(server);
  return server;
};
beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), "janus-hub-"));
  servers = [];
  hub = await startHub();
  hub.files
    .set("config.json", text('{"model_type":"janus"}'))
    .set("tokenizer.json", text("{}"))
    .set("chat_template.jinja", text("hi"))
    .set(WEIGHTS, weights);
  hub.files
    .set("pytorch_model.bin", text("not wanted"))
    .set("teaser.png", text("not wanted"))
    .set("README.md", text("not wanted"));
});
afterEach(async () => {
  await Promise.all(servers.map((server) => server.stop()));
  rmSync(home, { recursive: true, force: true });
});

const env = (more: Record<string, string> = {}): Record<string, string> => ({
  HF_ENDPOINT: hub.url,
  HF_HOME: home,
  ...more,
});
const download = (options: DownloadOptions = {}): Promise<string> =>
  downloadModel(REPO, { env: env(), backoffMs: 1, retries: 2, ...options });
const root = (): string => join(home, "hub", "models--someone--Janus-tiny");
const blob = (): string => join(root(), "blobs", sha256(weights));

describe("a good hub", () => {
  it("fills the cache as the hub's own tools do", async () => {
    const folder = await download();
    expect(folder).toBe(join(root(), "snapshots", hub.commit));
    expect(readdirSync(folder).sort()).toEqual(["chat_template.jinja", "config.json", WEIGHTS, "tokenizer.json"]);
    expect(readFileSync(join(root(), "refs", "main"), "utf8")).toBe(hub.commit);
    expect(lstatSync(join(folder, WEIGHTS)).isSymbolicLink()).toBe(true);
    expect(readlinkSync(join(folder, WEIGHTS))).toBe(join("..", "..", "blobs", sha256(weights)));
    expect(readlinkSync(join(folder, "tokenizer.json"))).toBe(join("..", "..", "blobs", gitSha(text("{}"))));
    expect(readdirSync(join(root(), "blobs")).length).toBe(4);
    expect(Buffer.compare(readFileSync(join(folder, WEIGHTS)), weights)).toBe(0);
  });
  it("gives a checkpoint that opens", async () => {
    hub.files.clear();
    for (const [name, bytes] of tinyFiles("hf")) hub.files.set(name, bytes);
    const checkpoint = await openCheckpoint(folderSource(await download()));
    expect(checkpoint.tensors.size).toBe(375);
    await checkpoint.close();
  });
  it("is asked for each file once, and for nothing that is there", async () => {
    await download();
    await download();
    expect(hub.of(WEIGHTS).length).toBe(1);
    expect(hub.of("pytorch_model.bin").length).toBe(0);
    // A commit never changes: it needs no question at all.
    const before = hub.requests.length;
    await download({ revision: hub.commit });
    expect(hub.requests.length).toBe(before);
  });
  it("tells progress to the end", async () => {
    const seen: DownloadProgress[] = [];
    await download({ onProgress: (progress) => seen.push(progress) });
    const total = weights.length + 22 + 2 + 2;
    expect(seen.at(-1)).toMatchObject({ bytes: total, totalBytes: total });
    expect(seen.map(({ bytes }) => bytes)).toEqual(seen.map(({ bytes }) => bytes).sort((a, b) => a - b));
    expect(seen.filter(({ file }) => file === WEIGHTS).at(-1)).toMatchObject({
      fileBytes: weights.length,
      fileTotal: weights.length,
    });
  });
  it("sends shards by their index, and .bin where there is nothing else", async () => {
    hub.files.delete(WEIGHTS);
    hub.files.delete("pytorch_model.bin");
    const index = { weight_map: { a: "pytorch_model-00001-of-00002.bin", b: "pytorch_model-00002-of-00002.bin" } };
    hub.files.set("pytorch_model.bin.index.json", text(JSON.stringify(index)));
    for (const name of Object.values(index.weight_map)) hub.files.set(name, text(name));
    hub.files.set("pytorch_model-00001-of-00001.bin", text("not of this model"));
    const folder = await download();
    expect(readdirSync(folder).filter((name) => name.includes("pytorch")).sort()).toEqual(["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]); // prettier-ignore
    expect(await modelFolder(REPO, { env: env({ HF_HUB_OFFLINE: "1" }) })).toBe(folder);
    rmSync(join(folder, "pytorch_model-00002-of-00002.bin"));
    await failure(
      download({ env: env({ HF_HUB_OFFLINE: "1" }) }),
      HubOfflineError,
      /pytorch_model-00002-of-00002\.bin is not in the cache/,
    );
  });
  it("gets the token, and other servers do not", async () => {
    const other = await startHub();
    for (const [name, bytes] of hub.files) other.files.set(name, bytes);
    hub.redirectTo = other.url;
    await download({ env: env({ HF_TOKEN: " secret\n" }) });
    expect(hub.requests.every(({ authorization }) => authorization === "Bearer secret")).toBe(true);
    expect(other.requests.length).toBe(4);
    expect(other.requests.every(({ authorization }) => authorization === undefined)).toBe(true);
  });
});

describe("a bad connection", () => {
  it("that breaks off again and again is taken up where it broke", async () => {
    hub.tricks.set(WEIGHTS, (response, bytes, n, { range }) => n <= 4 && breakOff(response, bytes, 60_000, range));
    const folder = await download();
    expect(Buffer.compare(readFileSync(join(folder, WEIGHTS)), weights)).toBe(0);
    expect(hub.of(WEIGHTS).map(({ range }) => range)).toEqual([
      undefined,
      "bytes=60000-",
      "bytes=120000-",
      "bytes=180000-",
      "bytes=240000-",
    ]);
    expect(readdirSync(join(root(), "blobs")).some((name) => name.includes("incomplete"))).toBe(false);
  });
  it("that is lost is told, what came is kept, and the next run takes it up", async () => {
    hub.tricks.set(WEIGHTS, (response, bytes, n, { range }) =>
      n === 1 ? breakOff(response, bytes, 100_000, range) : (response.destroy(), true),
    );
    await failure(download(), HubNetworkError, /model\.safetensors: .* 3 times in a row; what came is kept/);
    expect(readFileSync(`${blob()}.incomplete`).length).toBe(100_000);
    expect(existsSync(join(root(), "snapshots", hub.commit, WEIGHTS))).toBe(false);
    hub.tricks.clear();
    const seen: DownloadProgress[] = [];
    await download({ onProgress: (progress) => seen.push(progress) });
    expect(hub.of(WEIGHTS).at(-1)!.range).toBe("bytes=100000-");
    expect(seen.find(({ file }) => file === WEIGHTS)!.fileBytes).toBe(100_000);
    expect(Buffer.compare(readFileSync(blob()), weights)).toBe(0);
  });
  it("that stalls is broken and taken up", async () => {
    hub.tricks.set(WEIGHTS, (response, bytes, n) => {
      if (n > 1) return false;
      response.writeHead(200, { "content-length": String(bytes.length) }).write(bytes.subarray(0, 1000));
      return true;
    });
    await download({ env: env({ HF_HUB_DOWNLOAD_TIMEOUT: "0.3" }) });
    expect(hub.of(WEIGHTS).map(({ range }) => range)).toEqual([undefined, "bytes=1000-"]);
  });
  it("to a server that ignores Range begins anew", async () => {
    hub.tricks.set(WEIGHTS, (response, bytes, n) =>
      n === 1 ? breakOff(response, bytes, 70_000) : (send(response, bytes), true),
    );
    await download();
    expect(hub.of(WEIGHTS)[1]!.range).toBe("bytes=70000-");
    expect(Buffer.compare(readFileSync(blob()), weights)).toBe(0);
  });
  it("to a server that refuses the range begins anew", async () => {
    hub.tricks.set(WEIGHTS, (response, bytes, n) =>
      n === 1 ? breakOff(response, bytes, 70_000) : n === 2 ? (response.writeHead(416).end(), true) : false,
    );
    await download();
    expect(hub.of(WEIGHTS).map(({ range }) => range)).toEqual([undefined, "bytes=70000-", undefined]);
  });
  it("to a busy server waits and tries again", async () => {
    hub.tricks.set(
      WEIGHTS,
      (response, _bytes, n) =>
        n <= 2 && (response.writeHead(n === 1 ? 503 : 429, { "retry-after": "0.01" }).end(), true),
    );
    await download();
    expect(hub.of(WEIGHTS).length).toBe(3);
  });
  it("is ended by a signal, and taken up later", async () => {
    const controller = new AbortController();
    hub.tricks.set(WEIGHTS, (response, bytes, n) => {
      if (n > 1) return false;
      response
        .writeHead(200, { "content-length": String(bytes.length) })
        .write(bytes.subarray(0, 50_000), () => setTimeout(() => controller.abort(), 50));
      return true;
    });
    await expect(download({ signal: controller.signal })).rejects.toThrow(/abort/i);
    expect(readdirSync(join(root(), "blobs")).filter((name) => name.endsWith(".lock"))).toEqual([]);
    await download();
    expect(hub.of(WEIGHTS)[1]!.range).toBe("bytes=50000-");
  });
});

describe("a lying hub", () => {
  const isGone = (): boolean =>
    !existsSync(blob()) &&
    !existsSync(`${blob()}.incomplete`) &&
    !existsSync(join(root(), "snapshots", hub.commit, WEIGHTS)) &&
    !existsSync(join(root(), "refs"));
  it("that sends other bytes of the same length is found out", async () => {
    hub.tricks.set(WEIGHTS, (response, bytes) => (send(response, bytes.map((b, i) => (i === 1234 ? b ^ 1 : b))), true)); // prettier-ignore
    await failure(
      download(),
      HubIntegrityError,
      /model\.safetensors: its hash is [0-9a-f]{64}, the hub says [0-9a-f]{64}/,
    );
    expect(isGone()).toBe(true);
  });
  it("also with small files, by the hash of git", async () => {
    hub.tricks.set("tokenizer.json", (response) => (send(response, text("[]")), true));
    await failure(download(), HubIntegrityError, /tokenizer\.json: its hash is [0-9a-f]{40}/);
  });
  it.each([
    ["shorter", -1],
    ["longer", 1],
  ])("that announces a %s file is found out before it is read", async (_, by) => {
    // prettier-ignore
    hub.tricks.set(WEIGHTS, (response, bytes) => (response.writeHead(200, { "content-length": String(bytes.length + by) }), response.end(bytes.subarray(0, bytes.length + Math.min(by, 0))), true));
    await failure(download(), HubIntegrityError, /the server sends \d+ bytes, the hub says 300000/);
    expect(isGone()).toBe(true);
  });
  it("that sends more than it should, without a length, is stopped", async () => {
    hub.tricks.set(
      WEIGHTS,
      (response, bytes) => (response.writeHead(200), response.end(Buffer.concat([bytes, Buffer.alloc(10)])), true),
    );
    await failure(download(), HubIntegrityError, /sends more than the 300000 bytes/);
    expect(isGone()).toBe(true);
  });
  it("that sends less, without a length, is asked again and then given up", async () => {
    hub.tricks.set(
      WEIGHTS,
      (response, bytes, n) => (
        response.writeHead(n === 1 ? 200 : 206, n === 1 ? {} : { "content-range": "bytes 1000-299999/300000" }),
        response.end(n === 1 ? bytes.subarray(0, 1000) : undefined),
        true
      ),
    );
    await failure(download(), HubNetworkError, /the connection ended after 1000 of 300000 bytes/);
  });
  it.each(["bytes 0-299999/300000", "bytes 999-299999/300000", "bytes 1000-299999/5", "", "nonsense"])(
    "that continues with %j is found out",
    async (range) => {
      hub.tricks.set(WEIGHTS, (response, bytes, n) =>
        n === 1
          ? breakOff(response, bytes, 1000)
          : (response.writeHead(206, { "content-range": range }).end(bytes.subarray(1000)), true),
      );
      await failure(download(), HubIntegrityError, /bytes from 1000 of 300000 were asked for/);
      expect(isGone()).toBe(true);
    },
  );
  it("does not make a wrong beginning from an earlier run count: it is fetched once more", async () => {
    mkdirSync(join(root(), "blobs"), { recursive: true });
    writeFileSync(`${blob()}.incomplete`, new Uint8Array(120_000));
    const folder = await download();
    expect(hub.of(WEIGHTS).map(({ range }) => range)).toEqual(["bytes=120000-", undefined]);
    expect(Buffer.compare(readFileSync(join(folder, WEIGHTS)), weights)).toBe(0);
  });
  it("nor one that is too long", async () => {
    mkdirSync(join(root(), "blobs"), { recursive: true });
    writeFileSync(`${blob()}.incomplete`, new Uint8Array(400_000));
    await download();
    expect(Buffer.compare(readFileSync(blob()), weights)).toBe(0);
  });
  it("that redirects in circles, or away from http, is left", async () => {
    hub.tricks.set(
      WEIGHTS,
      (response) => (response.writeHead(302, { location: `${hub.url}/x/resolve/y/${WEIGHTS}` }).end(), true),
    );
    await failure(download(), HubError, /redirects more than 8 times/);
    hub.tricks.set(WEIGHTS, (response) => (response.writeHead(302, { location: "file:///etc/passwd" }).end(), true));
    await failure(download(), HubError, /redirects to file:.*not safe/);
  });
  const listings: [string, unknown, RegExp][] = [
    ["no JSON", "<html>", /unexpected/],
    ["no commit", { siblings: [] }, /does not answer like the hub/],
    ["a path as the commit", { sha: "../../../../x", siblings: [] }, /does not answer like the hub/],
    ["no files", { sha: "0".repeat(40), siblings: [] }, /no config\.json/],
    [
      "a file without a hash",
      { sha: "0".repeat(40), siblings: [{ rfilename: "config.json", size: 5 }] },
      /no size or no hash of "config\.json"/,
    ],
    [
      "a path as the hash",
      { sha: "0".repeat(40), siblings: [{ rfilename: "config.json", size: 5, blobId: "../../x" }] },
      /no size or no hash/,
    ],
    [
      "a negative size",
      { sha: "0".repeat(40), siblings: [{ rfilename: "config.json", size: -5, blobId: "0".repeat(40) }] },
      /no size or no hash/,
    ],
    [
      "no weights",
      { sha: "0".repeat(40), siblings: [{ rfilename: "config.json", size: 5, blobId: "0".repeat(40) }] },
      /no weights in it/,
    ],
  ];
  it.each(listings)("whose listing has %s is refused", async (_, listing, message) => {
    hub.listing = listing;
    await failure(download(), IoError, message);
  });
  it("cannot name files outside of the snapshot", async () => {
    const list = hub.list();
    const names = [
      "../../evil.json",
      "..",
      ".hidden.json",
      "sub/evil.json",
      "back\\evil.json",
      "/etc/evil.json",
      "nul\0.json",
      "esc\u001b.json",
    ];
    for (const rfilename of names) list.siblings.push({ rfilename, size: 2, blobId: gitSha(text("{}")) });
    hub.listing = list;
    const folder = await download();
    expect(readdirSync(folder).sort()).toEqual(["chat_template.jinja", "config.json", WEIGHTS, "tokenizer.json"]);
    expect(hub.requests.some(({ path }) => /evil|hidden/.test(path))).toBe(false);
  });
  it("cannot fill the disk by a size", async () => {
    const list = hub.list();
    list.siblings.push({ rfilename: "extra.safetensors", lfs: { sha256: "0".repeat(64), size: 2 ** 52 } });
    hub.listing = list;
    await failure(download(), FileError, /needs 4503599\.\d\d GB/);
  });
});

describe("without a hub", () => {
  const closed = async (): Promise<string> => {
    const server = await new HubServer().start();
    const { url } = server;
    await server.stop();
    return url;
  };
  it("offline mode takes the cache, and says what is missing", async () => {
    const offline = { env: env({ HF_HUB_OFFLINE: "true" }) };
    await failure(download(offline), HubOfflineError, /HF_HUB_OFFLINE is set and it is not in the cache/);
    const folder = await download();
    const before = hub.requests.length;
    expect(await download(offline)).toBe(folder);
    expect(hub.requests.length).toBe(before);
    await failure(download({ ...offline, revision: "other" }), HubOfflineError, /\(other\).*not in the cache/);
    rmSync(blob());
    await failure(download(offline), HubOfflineError, /model\.safetensors is not in the cache/);
  });
  it("that answers, the cache is taken with a notice; without a cache it is an error", async () => {
    const url = await closed();
    await failure(
      download({ env: env({ HF_ENDPOINT: url }) }),
      HubNetworkError,
      /no answer from 127\.0\.0\.1:\d+ .*3 times in a row/,
    );
    const folder = await download();
    const notices: string[] = [];
    expect(await download({ env: env({ HF_ENDPOINT: url }), onNotice: (notice) => notices.push(notice) })).toBe(folder);
    expect(notices).toEqual([expect.stringContaining("using the copy of someone/Janus-tiny in the cache")]);
  });
  const statuses: [number, Record<string, string>, abstract new (...args: never[]) => Error, RegExp][] = [
    [404, {}, HubNotFoundError, /someone\/Janus-tiny \(main\): not found/],
    [
      401,
      { "x-error-code": "RepoNotFound" },
      HubNotFoundError,
      /not found on the hub, or private\. .*there is none in HF_TOKEN/,
    ],
    [401, {}, HubAccessError, /access is refused \(HTTP 401\); set a token.*HF_TOKEN/],
    [403, { "x-error-code": "GatedRepo" }, HubAccessError, /access must be asked for/],
    [400, {}, HubError, /HTTP 400/],
    [500, {}, HubNetworkError, /HTTP 500, 3 times in a row/],
  ];
  it.each(statuses)("an answer of %i %o", async (status, headers, kind, message) => {
    hub.listingStatus = status;
    hub.listingHeaders = headers;
    await failure(download(), kind, message);
  });
  it("names that are none are refused before any question", async () => {
    const names = [
      "",
      "a/b/c",
      "../x",
      "a/..",
      "a b/c",
      "/abs",
      "a/-b",
      ".a/b",
      "a--b/c",
      "a/b\u001b",
      "x".repeat(100),
    ];
    for (const name of names)
      await failure(downloadModel(name, { env: env() }), HubError, /neither a folder nor the name of a model/);
    for (const revision of ["../x", "a b", "", "/x"])
      await failure(download({ revision }), HubError, /not the name of a revision/);
    expect(hub.requests.length).toBe(0);
  });
  it("a folder is taken as it is", async () => {
    expect(await modelFolder(home, { env: env() })).toBe(home);
    expect(hub.requests.length).toBe(0);
  });
});

describe("two at once", () => {
  it("fetch a file once", async () => {
    hub.tricks.set(WEIGHTS, (response, bytes) => (setTimeout(() => send(response, bytes), 100), true));
    const folders = await Promise.all([download(), download()]);
    expect(folders[0]).toBe(folders[1]);
    expect(hub.of(WEIGHTS).length).toBe(1);
  });
  it("a lock that nobody holds any more is passed over", async () => {
    mkdirSync(join(root(), "blobs"), { recursive: true });
    const lock = `${blob()}.incomplete.lock`;
    writeFileSync(lock, "");
    const old = new Date(Date.now() - 60_000);
    utimesSync(lock, old, old);
    await download();
    expect(existsSync(lock)).toBe(false);
  });
});

it("settings come from the variables of the hub's own tools", async () => {
  writeFileSync(join(home, "token"), "from-file\n");
  expect(await hubSettings({ HF_HOME: home })).toEqual({
    endpoint: "https://huggingface.co",
    cache: join(home, "hub"),
    token: "from-file",
    tokenFrom: join(home, "token"),
    offline: false,
    stallMs: 30_000,
  });
  const all = {
    HF_HOME: home,
    HF_HUB_CACHE: "/c",
    HF_TOKEN: "t",
    HF_ENDPOINT: "http://mirror/path//",
    HF_HUB_OFFLINE: "ON",
    HF_HUB_DOWNLOAD_TIMEOUT: "5",
  };
  expect(await hubSettings(all)).toEqual({
    endpoint: "http://mirror/path",
    cache: "/c",
    token: "t",
    tokenFrom: "HF_TOKEN",
    offline: true,
    stallMs: 5000,
  });
  expect((await hubSettings({ XDG_CACHE_HOME: join(home, "xdg") })).cache).toBe(
    join(home, "xdg", "huggingface", "hub"),
  );
  expect((await hubSettings({ HF_HOME: join(home, "none"), HF_HUB_OFFLINE: "0" })).token).toBeUndefined();
  await expect(hubSettings({ HF_ENDPOINT: "mirror" })).rejects.toThrow(/must be an address that begins with http/);
  await expect(hubSettings({ HF_HUB_DOWNLOAD_TIMEOUT: "soon" })).rejects.toThrow(/number of seconds above 0/);
});
