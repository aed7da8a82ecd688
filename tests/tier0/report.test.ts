/** Pages and charts: everything is escaped, nothing comes from the net, long curves are thinned, and what is missing is left out. */
import sharp from "sharp";
import { describe, expect, it } from "vitest";
import { encodePng } from "../../model/node/index.ts";
import { Curve, html, lineChart, page, picture, pictureGrid, table } from "../../train/node/report/index.ts";
import type { Html } from "../../train/node/report/index.ts";

const HOSTILE = `</title></svg><script>alert("1")</script>&'`;
const ESCAPED = "&lt;/title&gt;&lt;/svg&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;";

/** The points of the line that draws the series with this colour, x and y of the picture. */
function pathOf(svg: Html, colour: string, width: number): number[][] {
  const marks = svg.text.match(/<path [^>]*>/g)?.filter((tag) => tag.includes(`stroke="${colour}"`)) ?? [];
  const line = marks.find(
    (tag) => tag.includes(`stroke-width="${width}"`) && tag.includes(`aria-roledescription="line mark"`),
  );
  const d = /d="([^"]*)"/.exec(line ?? "")?.[1] ?? "";
  return d
    .split(/[ML]/)
    .slice(1)
    .map((point) => point.split(",").map(Number));
}

describe("pages", () => {
  it("escape text wherever it stands, and hold neither scripts nor addresses", async () => {
    const png = await encodePng({ width: 2, height: 1, data: Uint8Array.of(1, 2, 3, 4, 5, 6) });
    const chart = await lineChart({
      title: HOSTILE,
      x: HOSTILE,
      y: HOSTILE,
      series: [HOSTILE, "b"].map((name) => ({ name, points: [[1, 2]] as const })),
      marks: [{ x: 1, label: HOSTILE }],
    });
    const text = page({
      title: HOSTILE,
      summary: HOSTILE,
      refresh: 7,
      sections: [
        {
          title: HOSTILE,
          content: [HOSTILE, table([HOSTILE], [[HOSTILE], [picture({ png, caption: HOSTILE })]], [0])],
        },
        { title: "charts", content: [chart, chart, pictureGrid([{ png, caption: HOSTILE }]), html`<b>${HOSTILE}</b>`] },
      ],
    });
    expect(text.split(ESCAPED).length - 1).toBe(13);
    expect(text).not.toContain("<script");
    expect((await sharp(Buffer.from(String(chart))).metadata()).format).toBe("svg"); // well-formed: attributes are closed
    expect(text.match(/<\/svg>/g)).toHaveLength(2);
    expect(text.match(/<div class="charts"><svg/g)).toHaveLength(1); // side by side
    expect(text.match(/(?:src|href)="(?!data:image\/png;base64,)[^"]*/g)).toBeNull();
    expect(text).toContain(`src="data:image/png;base64,${Buffer.from(png).toString("base64")}"`);
    expect(text).toContain(`<meta http-equiv="refresh" content="7"`);
    expect(text).toContain(`default-src 'none'`);
    expect(page({ title: "a", sections: [] })).not.toContain("refresh");
  });

  it("take text, numbers, nothing and lists", () => {
    expect(html`<p>${"<"}${0}${null}${["a", html`<i>b</i>`, [1]]}</p>`.text).toBe("<p>&lt;0a<i>b</i>1</p>");
  });
});

describe("curves", () => {
  it("are kept as they are up to 500 points", () => {
    const points = Array.from({ length: 500 }, (_, i) => [i, i % 7] as const);
    expect(Curve.of(points).means()).toEqual(points);
    expect(Curve.of(points).extremes()).toEqual(points);
  });

  it.each([501, 4_000, 270_001])("%i points become at most 500 means, and single spikes are seen", (count) => {
    const spike = Math.floor(count / 3);
    const curve = new Curve();
    for (let i = 0; i < count; i++) curve.add(i, i === spike ? 1e7 : i === spike + 1 ? -1e7 : 2 * i);
    const means = curve.means();
    expect(means.length).toBeGreaterThan(240);
    expect(means.length).toBeLessThanOrEqual(500);
    for (const [x, y] of means.filter(([x]) => Math.abs(x - spike) > count / 200)) expect(y).toBeCloseTo(2 * x, 6);
    const extremes = curve.extremes();
    expect(extremes.length).toBeLessThanOrEqual(1000);
    expect(extremes).toContainEqual([spike, 1e7]);
    expect(extremes).toContainEqual([spike + 1, -1e7]);
    expect(extremes.every(([x], i) => i === 0 || x > extremes[i - 1]![0])).toBe(true);
    expect(extremes[0]).toEqual([0, 0]);
    expect(extremes.at(-1)).toEqual([count - 1, 2 * (count - 1)]);
  });

  it("smooth noise, not slopes", () => {
    const curve = Curve.of(Array.from({ length: 400 }, (_, i) => [i, 3 * i + (i % 2 ? 10 : -10)] as const));
    const middle = curve.smooth().slice(20, -20);
    for (const [x, y] of middle) expect(Math.abs(y - 3 * x)).toBeLessThan(1.5);
    expect(curve.smooth()).toHaveLength(400);
    const short = [[0, 1], [1, 5], [2, 0]] as const; // prettier-ignore
    expect(Curve.of(short).smooth()).toEqual(short);
  });

  it("leave out what is missing", () => {
    const curve = Curve.of([[0, null], [1, 5], [2, NaN], [3, undefined], [4, Infinity], [5, 6]]); // prettier-ignore
    expect(curve.means()).toEqual([[1, 5], [5, 6]]); // prettier-ignore
    expect(Curve.of([[1, NaN]]).isEmpty).toBe(true);
  });
});

describe("charts", () => {
  it("draw the values: a line over what it spans, missing ones left out", async () => {
    const points = Array.from({ length: 100 }, (_, i) => [i, i === 50 ? NaN : i] as const);
    const svg = await lineChart({
      title: "t",
      width: 99,
      height: 99,
      series: [{ name: "a", colour: "#123456", points }],
    });
    const line = pathOf(svg, "#123456", 2);
    expect(line).toHaveLength(99);
    for (const [x, y] of line) expect(x! + y!).toBeCloseTo(99 + x! / 100, 1); // y points down; the axis ends at 100
    expect(pathOf(svg, "#123456", 1)).toHaveLength(99);
  });

  it("of nothing are a line of text, and series without values are left out", async () => {
    const empty = await lineChart({ title: "<loss>", series: [{ name: "a", points: [] }] });
    expect(empty.text).toBe(`<p class="soft">&lt;loss&gt;: no values yet</p>`);
    const one = await lineChart({ title: "t", series: [{ name: "nought", points: [[1, NaN]] }, { name: "one", points: [[1, 2]] }] }); // prettier-ignore
    expect(one.text).not.toContain("nought");
    expect(one.text).toMatch(/^<svg/);
  });

  it("on a log scale leave out values that have no logarithm", async () => {
    const points = Array.from({ length: 60 }, (_, i) => [i, i === 7 ? 0 : i === 9 ? -1 : 10 ** (i % 3)] as const);
    const svg = await lineChart({ title: "t", scale: "log", series: [{ name: "a", colour: "#123456", points }] });
    expect(pathOf(svg, "#123456", 2)).toHaveLength(58);
    const none = await lineChart({ title: "t", scale: "log", series: [{ name: "a", points: [[1, 0]] }] });
    expect(none.text).toMatch(/no values yet/);
    expect(svg.text).not.toMatch(/NaN|Infinity/);
  });

  it("on a log scale are linear where the values do not differ tenfold", async () => {
    const middle = async (low: number, high: number): Promise<number> => {
      const points = Array.from({ length: 31 }, (_, i) => [i, [low, (low + high) / 2, high][i % 3]!] as const);
      const svg = await lineChart({ title: "t", scale: "log", height: 100, series: [{ name: "a", colour: "#123456", points }] }); // prettier-ignore
      const [bottom, halfWay] = pathOf(svg, "#123456", 2).map(([, y]) => y!);
      return halfWay! / bottom!;
    };
    expect(await middle(1, 9)).toBeCloseTo(1 - 4 / 8, 1);
    expect(await middle(1, 100)).toBeCloseTo(1 - Math.log10(50.5) / 2, 1);
  });

  it("of a long run stay small", async () => {
    const series = ["und", "text", "gen"].map((name, k) => {
      const curve = new Curve();
      for (let i = 0; i < 270_000; i++) curve.add(i, k + Math.sin(i * i));
      return { name, points: curve };
    });
    expect((await lineChart({ title: "loss", series })).text.length).toBeLessThan(150_000);
  });
});
