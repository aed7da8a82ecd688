/**
 * Adapters against PEFT itself: it reads ours, and we read its own, with the same outputs. Needs a Python with torch and peft, named by
 * JANUS_PEFT_PYTHON; without it the test says that it did not run.
 */
import "../quick_compile.ts";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { nn, noGrad, scope, tensor } from "../../index.ts";
import { loadAdapter, saveAdapter } from "../../model/janus/adapters.ts";
import { folderSource, writeFolderAtomic } from "../../model/node/files.ts";
import { useDevice } from "../gpu.ts";
import { tolerance } from "../harness.ts";
import { randomFrom } from "../random.ts";

useDevice();

const python = process.env["JANUS_PEFT_PYTHON"];
if (!python) console.log("not run: PEFT itself; set JANUS_PEFT_PYTHON to a Python with torch and peft");

/** Reads the adapter in `ours` and prints the outputs with it; writes one of its own to `theirs` and prints those with that. */
const SCRIPT = `
import json, sys, torch
from peft import LoraConfig, PeftModel, get_peft_model
given = json.load(sys.stdin)
def net():
    made = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.ReLU(), torch.nn.Linear(12, 4))
    with torch.no_grad():
        for parameter, values in zip(made.parameters(), given["weights"]):
            parameter.copy_(torch.tensor(values).reshape(parameter.shape))
    return made
x = torch.tensor(given["x"]).reshape(-1, 8)
ours = PeftModel.from_pretrained(net(), given["ours"]).eval()
out = {"ours": ours(x).flatten().tolist()}
torch.manual_seed(1)
theirs = get_peft_model(net(), LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["0", "2"], rank_pattern={"2": 2}, alpha_pattern={"^0": 7}))
with torch.no_grad():
    for name, parameter in theirs.named_parameters():
        if "lora_" in name: parameter.copy_(torch.randn_like(parameter) / 4)
theirs.save_pretrained(given["theirs"])
out["theirs"] = theirs.eval()(x).flatten().tolist()
print(json.dumps(out))
`;

it.skipIf(!python)("PEFT gives our adapters the outputs that we give them, and the other way round", async () => {
  const home = mkdtempSync(join(tmpdir(), "janus-peft-"));
  const random = randomFrom(2);
  const values = (n: number): number[] => Array.from({ length: n }, () => Math.fround(random() - 0.5));
  const [ours, theirs] = [join(home, "ours"), join(home, "theirs")];
  const weights = [values(96), values(12), values(48), values(4)];
  const x = values(40);
  const net = (): nn.Sequential => {
    const made = new nn.Sequential(new nn.Linear(8, 12), new nn.ReLU(), new nn.Linear(12, 4));
    for (const [i, p] of made.parameters().entries())
      p.writeBytes(new Uint8Array(Float32Array.from(weights[i]!).buffer));
    return made;
  };
  const run = async (model: nn.Sequential): Promise<number[]> => {
    using y = noGrad(() => scope(() => model.call(tensor(Float32Array.from(x), { shape: [5, 8] })).keep()));
    return Array.from((await y.data()) as Float32Array);
  };
  const [mine, other] = [net(), net()];
  try {
    nn.addAdapter(mine, "a", [["0", 2], ["2", 3]].map(([path, rank]) => [path as string, { rank: rank as number, alpha: 5 + (rank as number), dropout: 0.1 }] as const)); // prettier-ignore
    for (const [name, p] of mine.namedParameters())
      if (name.includes("lora_B")) p.writeBytes(new Uint8Array(Float32Array.from(values(p.size)).buffer));
    await writeFolderAtomic(ours, 0, (sink) => saveAdapter(mine, sink, { name: "a", base: "none" }));
    const input = JSON.stringify({ x, weights, ours, theirs });
    const found = JSON.parse(execFileSync(python!, ["-c", SCRIPT], { input, encoding: "utf8" })) as Record<"ours" | "theirs", number[]>; // prettier-ignore
    await loadAdapter(other, folderSource(theirs));
    for (const [name, model] of [
      ["ours", mine],
      ["theirs", other],
    ] as const) {
      // prettier-ignore
      const got = await run(model.eval());
      const [error, size] = [got.map((v, i) => v - found[name][i]!), found[name]].map((v) => Math.hypot(...v));
      expect(error! / size!, name).toBeLessThan(tolerance("forward", ["f32"], 12));
    }
  } finally {
    for (const model of [mine, other]) model.dispose();
    rmSync(home, { recursive: true });
  }
});
