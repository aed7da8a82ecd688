"""PyTorch on the CPU, by the same protocol as child.mjs. Run with a Python that has torch: JANUS_BENCH_PYTHON, or python3."""

import json
import sys
import time

import numpy as np

MARK = "@@bench "
BURST_MS = 20
MAX_CALLS = 500
CHAINED = 100


def answer(**message):
    print(MARK + json.dumps(message), flush=True)


try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    answer(error=f"does not start: {error}")
    sys.exit(0)


def mlp(x, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def chain(x):
    for _ in range(CHAINED // 2):
        x = x * 0.99 + 0.01
    return x


def train(fn):
    def run(*args):
        *inputs, dy = args
        leaves = [x.detach().requires_grad_() for x in inputs]
        y = fn(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, dy)]

    return run


OPS = {
    "matmul": torch.matmul,
    "linear": F.linear,
    "layerNorm": lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-5),
    "rmsNorm": lambda x, w: F.rms_norm(x, x.shape[-1:], w, 1e-6),
    "softmax": lambda x: torch.softmax(x, -1),
    "attention": attention,
    "attentionTrain": train(attention),
    "conv": lambda x, w, b: F.conv2d(x, w, b, padding=1),
    "mlp": mlp,
    "mlpTrain": train(mlp),
    "chain": chain,
}


def prepare(request):
    fn = OPS.get(request["op"])
    if fn is None:
        return None, {"unsupported": f"PyTorch has no {request['op']} here"}
    inputs = [
        torch.from_numpy(np.fromfile(one["file"], np.float32).reshape(one["shape"])) for one in request["inputs"]
    ]

    def call():
        with torch.set_grad_enabled("Train" in request["op"]):
            result = fn(*inputs)
        return result if isinstance(result, list) else [result]

    outputs = []
    for i, y in enumerate(call()):
        y.contiguous().numpy().astype(np.float32).tofile(f"{request['output']}.{i}")
        outputs.append(f"{request['output']}.{i}")
    return call, {"outputs": outputs}


def burst(call, calls):
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) * 1000 / calls


def measure(call, seconds):
    burst(call, 1)
    calls = max(1, min(MAX_CALLS, round(BURST_MS / max(1e-3, burst(call, 1)))))
    end = time.perf_counter() + seconds
    ms = [burst(call, calls)]
    while time.perf_counter() < end:
        ms.append(burst(call, calls))
    return {"ms": ms}


answer(ready=True, name="PyTorch CPU", version=torch.__version__, adapter=f"{torch.get_num_threads()} threads")
current = None
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "quit":
        break
    try:
        if request["do"] == "prepare":
            current, reply = prepare(request)
            answer(**reply)
        else:
            answer(**measure(current, request["seconds"]))
    except Exception as error:
        answer(error=str(error).split("\n")[0])
