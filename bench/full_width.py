"""Compares what full_width.ts wrote with transformers' LlamaModel in f32: python bench/full_width.py FOLDER."""
import json, sys
import numpy as np, torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaModel

folder = sys.argv[1]
c = json.load(open(f"{folder}/config.json"))
model = LlamaModel(LlamaConfig(vocab_size=c["vocabulary"], hidden_size=c["hidden"], intermediate_size=c["intermediate"], num_hidden_layers=c["layers"], num_attention_heads=c["heads"], num_key_value_heads=c["kvHeads"], rms_norm_eps=c["eps"], rope_theta=c["ropeTheta"], max_position_embeddings=64)).float().eval()
missing = model.load_state_dict({k: v.float() for k, v in load_file(f"{folder}/weights.safetensors").items()}, strict=False)
assert not missing.missing_keys and not missing.unexpected_keys, missing
x = torch.from_numpy(np.fromfile(f"{folder}/x.f32", np.float32)).reshape(1, -1, c["hidden"])
with torch.no_grad():
    expected = model(inputs_embeds=x).last_hidden_state.numpy()[0]
y = np.fromfile(f"{folder}/y.f32", np.float32).reshape(expected.shape)
for row, (a, b) in enumerate(zip(y, expected)):
    print(f"token {row}{' (decoded)' if row == len(y) - 1 else ''}: relative L2 distance {np.linalg.norm(a - b) / np.linalg.norm(b):.2e}")
