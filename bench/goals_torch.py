"""The work of goals.ts in PyTorch on the CPU, with random weights of the same shapes. Reads names of work, one a line, and answers with seconds."""

import sys
import time

import torch
import torch.nn.functional as F

torch.set_grad_enabled(False)
HIDDEN, MLP, LAYERS, HEADS = 2048, 5632, 24, 16
CODES, CACHED, PROMPT = 16384, 595, 600


def normal(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype).normal_(0, 0.02)


def language(dtype):
    shapes = [(3 * HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (2 * MLP, HIDDEN), (HIDDEN, MLP)]
    return [[normal(*shape, dtype=dtype) for shape in shapes] for _ in range(LAYERS)]


def rotate(x, angles):
    a, b = x.chunk(2, -1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def llama(x, layers, cache=None):
    rows, tokens, _ = x.shape
    one = torch.ones(HIDDEN, dtype=x.dtype)
    positions = torch.arange(tokens) + (0 if cache is None else CACHED - 1)
    angles = (positions[:, None] * 10000 ** (-torch.arange(0, 128, 2) / 128)).to(x.dtype)
    for i, (qkv, out, up, down) in enumerate(layers):
        heads = F.linear(F.rms_norm(x, (HIDDEN,), one, 1e-6), qkv).view(rows, tokens, 3 * HEADS, 128).transpose(1, 2)
        q, k, v = heads.chunk(3, 1)
        q, k = rotate(q, angles), rotate(k, angles)
        if cache is not None:
            keys, values = cache[i]
            keys[:, :, -1:], values[:, :, -1:] = k, v
            mixed = F.scaled_dot_product_attention(q, keys, values)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(mixed.transpose(1, 2).reshape(rows, tokens, HIDDEN), out)
        gate, value = F.linear(F.rms_norm(x, (HIDDEN,), one, 1e-6), up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * value, down)
    return x


def decoding():
    layers = language(torch.bfloat16)
    cache = [[normal(2, HEADS, CACHED, 128, dtype=torch.bfloat16) for _ in "kv"] for _ in layers]
    inner, head = normal(HIDDEN, HIDDEN, dtype=torch.bfloat16), normal(CODES, HIDDEN, dtype=torch.bfloat16)
    x = normal(2, 1, HIDDEN, dtype=torch.bfloat16)

    def run():
        logits = F.linear(F.gelu(F.linear(llama(x, layers, cache)[:, -1], inner)), head).float()
        guided = logits[1] + 5 * (logits[0] - logits[1])
        return torch.multinomial(torch.softmax(guided, -1), 1)

    return run


def prefill():
    layers, x = language(torch.float32), normal(1, PROMPT, HIDDEN)
    return lambda: llama(x, layers)


def vision():
    width, inner, tokens = 1024, 4096, 576
    patches, position = normal(width, 3, 16, 16), normal(1, tokens, width)
    shapes = [(3 * width, width), (width, width), (inner, width), (width, inner)]
    layers = [[(normal(*shape), normal(shape[0])) for shape in shapes] for _ in range(24)]
    aligner = [(normal(HIDDEN, width), normal(HIDDEN)), (normal(HIDDEN, HIDDEN), normal(HIDDEN))]
    pixels = normal(1, 3, 384, 384)

    def run():
        x = F.conv2d(pixels, patches, stride=16).flatten(2).transpose(1, 2) + position
        for qkv, out, up, down in layers:
            heads = F.linear(F.layer_norm(x, (width,)), *qkv).view(1, tokens, 48, 64).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(*heads.chunk(3, 1)).transpose(1, 2).reshape(1, tokens, width)
            x = x + F.linear(mixed, *out)
            x = x + F.linear(F.gelu(F.linear(F.layer_norm(x, (width,)), *up)), *down)
        return F.linear(F.gelu(F.linear(F.layer_norm(x, (width,)), *aligner[0])), *aligner[1])

    return run


def decoder():
    """VQ-16's decoder: levels of 512, 256, 256, 128 and 128 channels with three blocks each."""

    def conv(inside, outside, size=3):
        weight, bias = normal(outside, inside, size, size), normal(outside)
        return lambda x: F.conv2d(x, weight, bias, padding=size // 2)

    def block(inside, outside):
        first, second = conv(inside, outside), conv(outside, outside)
        shortcut = conv(inside, outside, 1) if inside != outside else lambda x: x
        return lambda x: shortcut(x) + second(F.silu(F.group_norm(first(F.silu(F.group_norm(x, 32))), 32)))

    def mix(channels):
        q, k, v, out = (conv(channels, channels, 1) for _ in range(4))

        def run(x):
            h = F.group_norm(x, 32)
            rows = [part(h).flatten(2).transpose(1, 2).unsqueeze(1) for part in (q, k, v)]
            mixed = F.scaled_dot_product_attention(*rows).squeeze(1).transpose(1, 2)
            return x + out(mixed.reshape(x.shape))

        return run

    def up(channels):
        after = conv(channels, channels)
        return lambda x: after(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    steps = [conv(8, 256, 1), conv(256, 512), block(512, 512), mix(512), block(512, 512)]
    inside = 512
    for level, channels in enumerate([512, 256, 256, 128, 128]):
        for _ in range(3):
            steps.append(block(inside, channels))
            inside = channels
            if level == 0:
                steps.append(mix(channels))
        if level < 4:
            steps.append(up(channels))
    last, codes = conv(128, 3), normal(1, 8, 24, 24)

    def run():
        x = codes
        for step in steps:
            x = step(x)
        return last(F.silu(F.group_norm(x, 32)))

    return run


WORK = {"token": decoding, "prefill": prefill, "vision": vision, "decoder": decoder}
ready = {}
print(f"ready {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
for line in sys.stdin:
    name = line.strip()
    if name not in ready:
        ready.clear()  # weights of one work at a time
        ready[name] = WORK[name]()
        ready[name]()
    started = time.perf_counter()
    ready[name]()
    print(time.perf_counter() - started, flush=True)
