/** What people have in place of a good hub and an empty cache: refusals, tokens, proxies, caches that are partly there or may only be read. */
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Device } from "../../engine/index.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import {
  HubAccessError,
  HubError,
  HubNetworkError,
  HubNotFoundError,
  downloadModel,
  hubSettings,
  modelSource,
} from "../../model/janus/node/hub.ts";
import { Janus } from "../../model/janus/node/janus.ts";
import { proxiesOf, proxyFor } from "../../model/node/proxies.ts";
import type { DownloadOptions } from "../../model/janus/node/hub.ts";
import { CheckpointError } from "../../model/io/errors.ts";
import { HubServer, send, sha256, expectHubError as failure } from "../checkpoint/hub_server.ts";
import { tinyFiles } from "../checkpoint/tiny.ts";
import { hasFixtures } from "../fixtures.ts";

const REPO = "someone/Janus-tiny";
const weights = Uint8Array.from({ length: 3000 }, (_, i) => i % 251);
const WEIGHTS = "model.safetensors";
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

let home: string;
let hub: HubServer;
beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), "janus-hub-"));
  hub = await new HubServer().start();
  hub.files
    .set("config.json", text('{"model_type":"janus"}'))
    .set("tokenizer.json", text("{}"))
    .set("chat_template.jinja", text("hi"))
    .set(WEIGHTS, weights);
});
afterEach(async () => {
  await hub.stop();
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

describe("refusals", () => {
  const refusals: [number, Record<string, string>, abstract new (...args: never[]) => Error, RegExp][] = [
    [403, { "x-error-code": "DisabledRepo", "x-error-message": "taken down" }, HubAccessError, /disabled this repository \(HTTP 403, "taken down"\)/],
    [404, { "x-error-code": "RevisionNotFound" }, HubNotFoundError, /no such revision/],
    [403, { "x-error-message": "fine-grained tokens only" }, HubAccessError, /refused \(HTTP 403, "fine-grained tokens only"\)/],
    [302, { location: "http://[bad" }, HubError, /redirects to "http:\/\/\[bad", which is no address/],
    [302, { location: "http://me:secret@127.0.0.1/x" }, HubError, /redirects to an address of 127\.0\.0\.1 with a name and password/],
    [302, {}, HubError, /redirects \(HTTP 302\) to no address/],
    [200, { "content-type": "text/html" }, HubError, /answers with a web page.*log in to the network/],
    [501, {}, HubError, /the server answers HTTP 501/],
    [429, { "retry-after": "600" }, HubNetworkError, /HTTP 429; try again in 10 minutes/],
  ]; // prettier-ignore
  it.each(refusals)(
    "an answer of %i %o is told by its own message, and asked for once",
    async (status, headers, kind, message) => {
      hub.listingStatus = status;
      hub.listingHeaders = headers;
      await failure(download(), kind, message);
      expect(hub.requests.length).toBe(1);
    },
  );
  it.each(refusals)(
    "an answer of %i %o: a copy in the cache is used, with a notice",
    async (status, headers, _, message) => {
      const folder = await download();
      hub.listingStatus = status;
      hub.listingHeaders = headers;
      const notices: string[] = [];
      expect(await download({ onNotice: (notice) => notices.push(notice) })).toBe(folder);
      expect(notices).toEqual([expect.stringMatching(message)]);
      expect(notices[0]).toContain("using the copy of someone/Janus-tiny in the cache, commit 01234567");
    },
  );
  it("a name and password in HF_ENDPOINT, which no request can have, are refused without showing them", async () => {
    const url = hub.url.replace("//", "//me:secret@");
    await failure(download({ env: env({ HF_ENDPOINT: url }) }), HubError, /^HF_ENDPOINT must have no name and password; got an address/);
  }); // prettier-ignore
  it("an answer for another commit than the one that was asked for is refused", async () => {
    const revision = "f".repeat(40);
    await failure(download({ revision }), HubError, /must answer for this commit; it answers for 0123456/);
  });
  it("a host that is not found is named", async () => {
    const url = "http://no-such-host.invalid";
    await failure(download({ env: env({ HF_ENDPOINT: url }) }), HubNetworkError, /no-such-host\.invalid/);
  });
});

describe("a token", () => {
  const refused = { "x-error-code": "RepoNotFound", "x-error-message": "Invalid credentials in Authorization header" };
  it("that the hub refuses is left out: a public model comes, with a notice", async () => {
    hub.refusesTokens = refused;
    writeFileSync(join(home, "token"), "stale");
    const notices: string[] = [];
    await download({ onNotice: (notice) => notices.push(notice) });
    expect(notices).toEqual([
      expect.stringMatching(/refuses the token of .*token \(Invalid credentials.*renew or remove/),
    ]);
    expect(hub.requests.filter(({ authorization }) => authorization !== undefined).length).toBe(1);
  });
  it("that the hub refuses is named if the model is not public", async () => {
    hub.refusesTokens = refused;
    hub.listingStatus = 401;
    hub.listingHeaders = { "x-error-code": "GatedRepo" };
    await failure(
      download({ env: env({ HF_TOKEN: "old" }) }),
      HubAccessError,
      /must be asked for .*refuses the token of HF_TOKEN \(Invalid.*settings\/tokens/,
    );
  });
  it("with a character that no token has is refused by its position, before any request", async () => {
    await failure(
      download({ env: env({ HF_TOKEN: "hf_a\u200bb" }) }),
      HubAccessError,
      /HF_TOKEN: .*U\+200B at position 5/,
    );
    expect(hub.requests.length).toBe(0);
    const folder = await download();
    const notices: string[] = [];
    const broken = { env: env({ HF_TOKEN: "hf_a\u200bb" }), onNotice: (notice: string) => void notices.push(notice) };
    expect(await download(broken)).toBe(folder);
    expect(notices).toEqual([expect.stringContaining("U+200B")]);
  });
  it("is not sent from its file if HF_HUB_DISABLE_IMPLICIT_TOKEN is set", async () => {
    writeFileSync(join(home, "token"), "secret");
    await download({ env: env({ HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" }) });
    expect(hub.requests.every(({ authorization }) => authorization === undefined)).toBe(true);
  });
});

describe("a cache", () => {
  it("whose ref is right is not written: one that may only be read works", async () => {
    const folder = await download();
    const ref = join(root(), "refs", "main");
    const before = statSync(ref);
    expect(await download()).toBe(folder);
    expect(statSync(ref)).toMatchObject({ ino: before.ino, mtimeMs: before.mtimeMs });
  });
  it("that cannot note a commit works, with a notice", async () => {
    const folder = await download();
    rmSync(join(root(), "refs"), { recursive: true });
    writeFileSync(join(root(), "refs"), "no folder");
    const notices: string[] = [];
    expect(await download({ onNotice: (notice) => notices.push(notice) })).toBe(folder);
    expect(notices).toEqual([expect.stringMatching(/refs.*main will not be found/)]);
  });
  it("of files instead of links, without blobs, is whole", async () => {
    const folder = await download();
    const before = hub.requests.length;
    const bytes = readFileSync(join(folder, WEIGHTS));
    rmSync(join(folder, WEIGHTS));
    writeFileSync(join(folder, WEIGHTS), bytes);
    rmSync(blob());
    await download();
    expect(hub.requests.length).toBe(before + 1);
  });
  it("with a part of a pinned commit is completed", async () => {
    const folder = await download({ revision: hub.commit });
    rmSync(join(folder, "tokenizer.json"));
    expect(await download({ revision: hub.commit })).toBe(folder);
    expect(readFileSync(join(folder, "tokenizer.json"), "utf8")).toBe("{}");
  });
  it("that another tool filled with some files of a pinned commit is completed once", async () => {
    const folder = await download();
    rmSync(join(folder, "chat_template.jinja"));
    rmSync(join(root(), ".no_exist"), { recursive: true });
    const before = hub.requests.length;
    await download({ revision: hub.commit });
    expect(existsSync(join(folder, "chat_template.jinja"))).toBe(true);
    expect(hub.requests.length).toBe(before + 1);
    await download({ revision: hub.commit });
    expect(hub.requests.length).toBe(before + 1);
  });
  it("may be named instead of the environment's", async () => {
    const cache = join(home, "other");
    expect(await download({ cache })).toBe(join(cache, "models--someone--Janus-tiny", "snapshots", hub.commit));
  });
});

describe("a model that is only looked at", () => {
  it.skipIf(!hasFixtures)("is read by ranges: headers, and small files", async () => {
    hub.files.clear();
    for (const [name, bytes] of tinyFiles("hf")) hub.files.set(name, bytes);
    const source = await modelSource(REPO, { env: env() });
    expect(source.name).toBe(REPO);
    const checkpoint = await openCheckpoint(source);
    expect(checkpoint.tensors.size).toBe(375);
    await checkpoint.close();
    expect(hub.of("model.safetensors").map(({ range }) => range)).toEqual(["bytes=0-262143"]);
    expect(existsSync(root())).toBe(false);
  });
  it("on a server that fails on ranges with an end is read by open ones", async () => {
    const large = Uint8Array.from({ length: 2 ** 20 + 1 }, (_, i) => i & 255);
    hub.files.set("large.bin", large);
    hub.tricks.set(
      "large.bin",
      (response, _bytes, _n, { range }) => /-\d+$/.test(range!) && (response.destroy(), true),
    );
    const file = await (await modelSource(REPO, { env: env(), backoffMs: 1 })).open("large.bin");
    expect(await file.read(2 ** 20 - 2, 3)).toEqual(Uint8Array.of(254, 255, 0));
    expect(hub.of("large.bin").map(({ range }) => range)).toEqual(["bytes=1048574-1048576", "bytes=1048574-"]);
  });
  it("is that of the cache if it is there", async () => {
    const folder = await download();
    expect((await modelSource(REPO, { env: env() })).name).toBe(folder);
    expect((await modelSource(REPO, { env: env({ HF_HUB_OFFLINE: "1" }) })).name).toBe(folder);
  });
  it("on a server that sends no parts is read at its beginning, and no further", async () => {
    const large = Uint8Array.from({ length: 2 ** 20 + 1 }, (_, i) => i & 255);
    hub.files.set("large.bin", large);
    hub.tricks.set("large.bin", (response, bytes) => (send(response, bytes), true));
    const file = await (await modelSource(REPO, { env: env() })).open("large.bin");
    expect(await file.read(2, 3)).toEqual(Uint8Array.of(2, 3, 4));
    await failure(file.read(2 ** 20 - 10, 5), HubError, /does not send parts of files/);
  });
});

describe("fromPretrained", () => {
  it("takes a revision and a cache folder for models of the hub, and refuses them for a folder", async () => {
    vi.stubEnv("HF_ENDPOINT", hub.url);
    const cacheDir = join(home, "elsewhere");
    const device = await Device.create({ backend: "null" });
    // It is fetched; what was fetched is no model.
    await expect(Janus.fromPretrained(REPO, { device, cacheDir, revision: "v1" })).rejects.toThrow(CheckpointError);
    vi.unstubAllEnvs();
    expect(hub.requests[0]!.path).toBe(`/api/models/${REPO}/revision/v1`);
    expect(readdirSync(cacheDir)).toEqual(["models--someone--Janus-tiny"]);
    for (const option of [{ cacheDir }, { revision: "v1" }, { revision: "" }, { onDownload: () => undefined }]) {
      const refused =
        "onDownload" in option
          ? /config\.json/
          : /(revision|the cache folder) is for models of the hub; .* is a folder/;
      await expect(Janus.fromPretrained(home, { device, ...option })).rejects.toThrow(refused);
    }
    await expect(Janus.fromPretrained(REPO, { device, revision: "" })).rejects.toThrow(/not the name of a revision/);
  });
});

describe("a proxy", () => {
  it.each([
    ["HTTP_PROXY", "http://hub.example", "a"],
    ["HTTP_PROXY", "https://hub.example", ""], // as for curl and Python: https goes through HTTPS_PROXY alone
    ["HTTPS_PROXY", "https://hub.example", "a"],
    ["HTTPS_PROXY", "http://hub.example", ""],
    ["ALL_PROXY", "https://hub.example", "a"],
  ])("of %s is used for %s: %j", (name, url, host) => {
    expect(proxyFor(new URL(url), proxiesOf({ [name]: "http://a:1" }))).toBe(host && `http://${host}:1`);
  });
  it.each([
    ["hub.example", "https://hub.example", true],
    ["hub.example", "https://cdn.hub.example", true],
    [".hub.example", "https://hub.example", true],
    ["*.hub.example", "https://cdn.hub.example", true],
    ["hub.example", "https://nothub.example", false],
    ["HUB.example:8080", "https://hub.example:8080", true],
    ["hub.example:8080", "https://hub.example", false],
    ["*", "https://hub.example", true],
    ["localhost, 10.0.0.0/8", "http://10.1.2.3", true],
    ["10.0.0.0/8", "http://11.1.2.3", false],
    ["10.0.0.0/8", "http://10.example", false],
    ["192.168.1.7", "http://192.168.1.7:80", true],
    ["fd00::/8", "http://[fd00::1]", true],
    ["[::1]", "http://[::1]:8080", true],
    ["::1", "http://[::1]:8080", true],
    ["fd00::/8", "http://[fe80::1]", false],
  ])("is not used if NO_PROXY is %s and the address %s: %s", (none, url, isDirect) => {
    const proxies = proxiesOf({ ALL_PROXY: "http://a:1", NO_PROXY: none });
    expect(proxyFor(new URL(url), proxies)).toBe(isDirect ? "" : "http://a:1");
  });
  it.each(["10.0.0.0/33", "10.0.0/8", "fd00::/129", "hub.example/8"])("refuses %s in NO_PROXY", (none) => {
    expect(() => proxiesOf({ NO_PROXY: none })).toThrow(/NO_PROXY: .* is no range of addresses/);
  });
  it("is asked for what NO_PROXY does not name, and named if it refuses", async () => {
    const seen: string[] = [];
    const proxy = createServer();
    proxy.on("connect", (request, socket) => {
      seen.push(request.url!);
      socket.end("HTTP/1.1 403 Forbidden\r\n\r\n");
    });
    await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
    const { port } = proxy.address() as AddressInfo;
    const through = { HF_ENDPOINT: "https://hub.example", HTTPS_PROXY: `127.0.0.1:${port}` };
    await failure(
      download({ env: env(through) }),
      HubNetworkError,
      new RegExp(`proxy 127\\.0\\.0\\.1:${port} answers HTTP 403`),
    );
    expect(seen).toEqual(["hub.example:443"]);
    await download({ env: env({ HTTP_PROXY: `http://127.0.0.1:${port}`, NO_PROXY: "127.0.0.1" }) });
    expect(seen.length).toBe(1);
    proxy.closeAllConnections();
    await new Promise((resolve) => proxy.close(resolve));
  });
  it("of a kind that is not supported is refused by the name of its variable", async () => {
    await failure(
      download({ env: env({ ALL_PROXY: "socks5://localhost:1080" }) }),
      HubError,
      /ALL_PROXY names a proxy of the kind socks5/,
    );
  });
});

it("paths in settings have ~ and variables expanded, and are refused if that cannot be", async () => {
  const base = { HOME: home, DISK: "/disk" };
  expect((await hubSettings({ ...base, HF_HOME: "~/models" })).cache).toBe(join(home, "models", "hub"));
  expect((await hubSettings({ ...base, HF_HOME: "~" })).cache).toBe(join(home, "hub"));
  expect((await hubSettings({ ...base, HF_HUB_CACHE: "$HOME/c" })).cache).toBe(`${home}/c`);
  expect((await hubSettings({ ...base, XDG_CACHE_HOME: "${DISK}/x" })).cache).toBe("/disk/x/huggingface/hub");
  expect((await hubSettings({ ...base, HF_HUB_CACHE: "/a" }, "~/given")).cache).toBe(`${home}/given`);
  writeFileSync(join(home, "my-token"), "mine");
  expect((await hubSettings({ ...base, HF_TOKEN_PATH: "$HOME/my-token" })).token).toBe("mine");
  await expect(hubSettings({ ...base, HF_HOME: "$NOWHERE/x" })).rejects.toThrow(/HF_HOME.*variable NOWHERE is not set/);
  await expect(hubSettings({ ...base, HF_HUB_CACHE: "~someone/x" })).rejects.toThrow(/HF_HUB_CACHE.*another user/);
});
