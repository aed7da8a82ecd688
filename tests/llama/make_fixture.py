"""Writes this folder with transformers and PyTorch: a small Llama with random weights in transformers' layout, and what they compute with it.

    python tests/llama/make_fixture.py          (pip install torch transformers)

The tokenizer has the 256 bytes, and three special tokens.
"""

import json
import pathlib

import torch
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
PROMPTS = ["The red circle", "Two blue squares stand"]
TEXTS = ["a red circle is red.", "a blue square is blue."]
STEPS = 4

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=264, hidden_size=48, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=12, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
    bos_token_id=256, eos_token_id=257, pad_token_id=258, tie_word_embeddings=False, initializer_range=0.3,
)
model = LlamaForCausalLM(config).eval()
model.save_pretrained(HERE, safe_serialization=True)

characters = {}  # GPT-2's characters of the bytes, whose ids are in the order of the characters
codes = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
for byte in range(256):
    characters[byte] = chr(byte) if byte in codes else chr(256 + sum(1 for b in range(byte) if b not in codes))
order = sorted(characters.values())
SPECIALS = {"<s>": 256, "</s>": 257, "<pad>": 258}
added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
tokenizer = {
    "version": "1.0", "truncation": None, "padding": None,
    "added_tokens": [{"id": id, "content": content, **added} for content, id in SPECIALS.items()],
    "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
    "model": {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "vocab": {c: i for i, c in enumerate(order)} | SPECIALS, "merges": [],
    },
}
(HERE / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2) + "\n")
(HERE / "tokenizer_config.json").write_text('{ "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>" }\n')
ids_of = lambda text: [256] + [order.index(characters[b]) for b in text.encode()]

golden = {"prompts": [], "train": {}}
exact = LlamaForCausalLM.from_pretrained(HERE, dtype=torch.float64).eval()
with torch.no_grad():
    for prompt in PROMPTS:
        ids = torch.tensor([ids_of(prompt)])
        logits = exact(ids).logits[0]
        answer = exact.generate(ids, do_sample=False, max_new_tokens=24, eos_token_id=None, pad_token_id=258)[0, ids.shape[1]:]
        golden["prompts"].append({
            "text": prompt, "ids": ids[0].tolist(), "last_logits": [round(v, 6) for v in logits[-1].tolist()],
            "logits_norm": logits.norm().item(), "greedy": answer.tolist(),
        })

# The mean over all predicted tokens of both texts, each in a row of its own.
exact.train()
optimizer = torch.optim.AdamW(exact.parameters(), lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
rows = [ids_of(text) + [257] for text in TEXTS]
losses, norms = [], []
for _ in range(STEPS):
    optimizer.zero_grad()
    total = sum(
        torch.nn.functional.cross_entropy(exact(torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]), reduction="sum") for ids in rows
    )
    loss = total / sum(len(ids) - 1 for ids in rows)
    loss.backward()
    losses.append(loss.item())
    norms.append(torch.nn.utils.clip_grad_norm_(exact.parameters(), 1.0).item())
    optimizer.step()
golden["train"] = {"texts": TEXTS, "rows": rows, "losses": losses, "norms": norms}
golden["versions"] = {"torch": torch.__version__, "transformers": __import__("transformers").__version__}
(HERE / "golden.json").write_text(json.dumps(golden) + "\n")
