/** Pages and charts: everything is escaped, nothing comes from the net, long curves are thinned, and what is missing is left out. */
import sharp from "sharp";
import { describe, expect, it } from "vitest";
import { encodePng } from "../../model/node/index.ts";
import { Curve, Html, html, lineChart, page, picture, pictureGrid, table } from "../../train/node/report/index.ts";

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
    expect(text.split(ESCAPED).length - 1).toBe(17);
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

  it("contain the values at each position, hidden until the pointer is there", async () => {
    const series = [
      { name: "a", colour: "#123456", points: [[1, 0.5], [2, 1234.5], [4, 2e-5]] },
      { name: "b", colour: "#654321", points: [[2, 3], [4, NaN]] },
    ] as const; // prettier-ignore
    const svg = (await lineChart({ title: "t", x: "step", width: 90, height: 90, series })).text;
    const bands = [...svg.matchAll(/<g class="at"><rect x="([\d.]+)" y="0" width="([\d.]+)"(.*?)<\/g><\/g>/g)];
    const texts = bands.map(([, , , inside]) =>
      inside!
        .replace(/<[^>]*>/g, " ")
        .replace(/ +/g, " ")
        .trim(),
    );
    expect(texts.map((text) => text.slice(text.indexOf("step")))).toEqual(["step 1 a 0.5", "step 2 a 1,235 b 3", "step 4 a 2.00e-5"]); // prettier-ignore
    expect(bands.map(([, from, width]) => [Number(from), Number(width)])).toEqual([[0, 15], [15, 45], [60, 30]]); // prettier-ignore
    for (const [, , , inside] of bands) expect(inside).toContain(`class="value" visibility="hidden"`);
    const [, top] = pathOf(new Html(svg), "#123456", 2)[1]!;
    expect(bands[1]![3]).toContain(`<circle cx="30" cy="${top!.toFixed(1)}" r="3.5" fill="#123456" />`);
    const share = await lineChart({ title: "t", format: "~%", series: [{ name: "a", points: [[1, 0.125]] }] });
    expect(share.text).toContain("12.5 %");
  });

  it("over the whole width come twice, for wide and for narrow screens", async () => {
    const series = ["a", "b", "c", "d"].map((name) => ({ name: `a long name of ${name}`, points: [[1, 2], [2, 3]] as const })); // prettier-ignore
    const { text } = await lineChart({ title: "t", x: "step", isWide: true, series });
    const widths = [...text.matchAll(/<svg [^>]*class="marks (wide|narrow)" width="(\d+)"/g)];
    expect(widths.map(([, name, width]) => [name, Number(width) > 700])).toEqual([["wide", true], ["narrow", false]]); // prettier-ignore
    const lines = text.split("</svg>").map((svg) => svg.split(`class="at"`)[1]?.match(/<text /g)?.length);
    expect(lines.slice(0, 2)).toEqual([1, 2]); // the values stay inside the narrow one
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
