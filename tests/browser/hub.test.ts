/** Models from the hub in a real browser: kept in its storage, resumed, checked, and refused before the weights are fetched. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Page } from "playwright-core";
import { breakOff } from "../checkpoint/hub_server.ts";
import type { HubServer } from "../checkpoint/hub_server.ts";
import { openHubPage } from "./chromium.ts";
import type { HubPage } from "./chromium.ts";
import type { PretrainedJob, PretrainedReport } from "./page/jobs.ts";

const PART = 16 * 2 ** 20;
const WEIGHTS = "model.safetensors";

describe("models from the hub in a browser", () => {
  let page: Page;
  let hub: HubServer;
  let opened: HubPage;
  beforeAll(async () => {
    opened = await openHubPage({ "notes.txt": new Uint8Array(2.5 * PART).map((_, i) => i % 251) });
    ({ page, hub } = opened);
  });
  afterAll(() => opened?.stop());

  const load = async (more: Partial<PretrainedJob["options"]> = {}, device: PretrainedJob["device"] = {}) => {
    hub.requests.length = 0;
    const options = { endpoint: hub.url, backoffMs: 1, retries: 2, ...more };
    const job: PretrainedJob = { name: "someone/shapes", options, device };
    return (await page.evaluate((given) => window.runJob("pretrained", given), job)) as PretrainedReport;
  };
  const remove = () => page.evaluate((given) => window.runJob("remove", given), { name: "someone/shapes" });
  /** Requests for the weights that are for more than a header. */
  const wholeRequests = () => hub.of(WEIGHTS).filter(({ range }) => !/^bytes=0-\d+$/.test(range ?? ""));

  it("refuses before the weights are fetched what the device cannot have, with the numbers", async () => {
    const memory = await load({}, { memoryBudget: 3e6 });
    expect(memory.error?.kind).toBe("DeviceError");
    expect(memory.error?.message).toMatch(/must have \d+ MB for someone\/shapes .* got a memory budget of 3 MB/);
    const buffers = await load({}, { limits: { maxBufferSize: 65536 } });
    expect(buffers.error?.message).toMatch(/buffers of 1 MB for .* got maxBufferSize/);
    expect(wholeRequests()).toEqual([]);
    await remove();
  });

  it("refuses before the weights are fetched what the browser has no room for", async () => {
    await page.evaluate(() => (navigator.storage.estimate = async () => ({ usage: 0, quota: 1e6 })));
    const { error } = await load();
    await page.reload();
    await page.waitForFunction(() => document.title === "ready");
    expect(error?.kind).toBe("StorageError");
    expect(error?.message).toMatch(/must have room for 47 MB of someone\/shapes; got 1 MB/);
    expect(hub.requests.filter(({ path }) => path.includes("/resolve/"))).toEqual([]);
  });

  it("names what the browser cannot store, and keeps nothing half-written", async () => {
    const session = await page.context().newCDPSession(page);
    await session.send("Storage.overrideQuotaForOrigin", { origin: opened.url, quotaSize: 1e6 });
    const { error, stored } = await load();
    await session.send("Storage.overrideQuotaForOrigin", { origin: opened.url });
    expect(error?.kind).toBe("StorageError");
    expect(error?.message).toMatch(/the browser must store "000000"; got: .*quota/i);
    expect(stored).toEqual([]);
  });

  it("removes contents with a wrong hash", async () => {
    const good = hub.files.get(WEIGHTS)!;
    hub.tricks.set(WEIGHTS, (response, bytes, _n, { range }) => {
      if (range) return false; // the header is read first
      const wrong = bytes.map((byte, i) => (i === bytes.length - 1 ? byte ^ 1 : byte));
      response.writeHead(200, { "content-length": String(wrong.length) }).end(wrong);
      return true;
    });
    const { error, stored } = await load();
    hub.tricks.clear();
    expect(error?.kind).toBe("HubIntegrityError");
    expect(error?.message).toMatch(/its hash must be [0-9a-f]{64}; got/);
    expect(stored).toEqual([]);
    expect(good.length).toBe(hub.files.get(WEIGHTS)!.length);
    await remove();
  });

  it("resumes behind the last stored part, stores the model, and does not fetch it again", async () => {
    let isBroken = false;
    hub.tricks.set("notes.txt", (response, bytes, _n, { range }) => {
      if (isBroken) return false;
      return (isBroken = breakOff(response, bytes, 1.2 * PART, range));
    });
    const first = await load();
    expect(first.error).toBeUndefined();
    expect(hub.of("notes.txt").map(({ range }) => range)).toEqual([undefined, `bytes=${PART}-`]);
    expect(first.progress![1]).toBe(first.progress![2]);
    expect(first.stored.map(({ name, revision, commit }) => [name, revision, commit])).toEqual([
      ["someone/shapes", "main", hub.commit],
    ]);
    const again = await load();
    expect(again.fingerprint).toBe(first.fingerprint);
    expect(hub.requests.filter(({ path }) => path.includes("/resolve/"))).toEqual([]);
    hub.listingStatus = 503;
    const offline = await load();
    hub.listingStatus = 200;
    expect(offline.fingerprint).toBe(first.fingerprint);
    expect(offline.notices.join()).toMatch(/Using the stored copy of someone\/shapes/);
  });

  it("removes a model with its files", async () => {
    const [isRemoved, left, usedBytes] = (await remove()) as [boolean, number, number];
    expect([isRemoved, left]).toEqual([true, 0]);
    expect(usedBytes).toBeLessThan(1e6);
  });

  it("names a model that is not there", async () => {
    hub.listingStatus = 404;
    expect((await load()).error?.kind).toBe("HubNotFoundError");
    hub.listingStatus = 200;
  });
});
