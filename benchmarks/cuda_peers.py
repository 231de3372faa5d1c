"""Torch on the GPU, as its users run it: eager and compiled, float16, images channels-last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.zoo import ZOO

Call = Callable[[], Any]


def module_and_inputs(model: str, feed: Mapping[str, np.ndarray]) -> tuple[Any, list[Any]]:
    """The zoo's module in float16 on the GPU, and its inputs there."""
    import torch

    module = ZOO[model].build().eval().half().cuda()
    inputs = [torch.from_numpy(array).cuda() for array in feed.values()]
    inputs = [tensor.half() if tensor.is_floating_point() else tensor for tensor in inputs]
    if any(tensor.dim() == 4 for tensor in inputs):
        module = module.to(memory_format=torch.channels_last)
        inputs = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs]
    return module, inputs


def eager(model: str, feed: Mapping[str, np.ndarray]) -> Call:
    """cuDNN and cuBLAS, cuDNN's own search for algorithms on."""
    import torch

    torch.backends.cudnn.benchmark = True
    module, inputs = module_and_inputs(model, feed)
    return _inference(module, inputs)


def compiled(model: str, feed: Mapping[str, np.ndarray], mode: str) -> Call:
    """torch.compile for just these shapes; "reduce-overhead" and "max-autotune" replay CUDA graphs."""
    import torch

    torch._dynamo.reset()  # or another batch of a model makes its extent a variable
    module, inputs = module_and_inputs(model, feed)
    return _inference(torch.compile(module, mode=mode, dynamic=False), inputs)


def _inference(module: Any, inputs: Sequence[Any]) -> Call:
    import torch

    def run() -> Any:
        with torch.inference_mode():
            return module(*inputs)

    return run


def replayed(call: Call) -> Call:
    """The call's kernels as one CUDA graph, without what the host does between them."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        kept = call()

    def run() -> Any:
        graph.replay()
        return kept

    return run


def seconds(calls: Mapping[str, Call], rounds: int = 15, least: float = 0.02) -> dict[str, list[float]]:
    """Seconds of a run of each, `rounds` times in rotation, by CUDA events around as many runs as take `least`."""
    import torch

    def span(call: Call, count: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3 / count

    counts = {}
    for name, call in calls.items():
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        counts[name] = max(1, int(least / max(span(call, 3), 1e-6)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(span(call, counts[name]))
    return found


def version() -> str:
    """Of torch."""
    import torch

    return str(torch.__version__)


def ceilings() -> dict[str, float]:
    """What the GPU can do, measured: float16 products of matrices and copies in its memory."""
    import torch

    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.float16) for _ in range(2))
    data = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    other = torch.empty_like(data)
    found = seconds({"matmul": lambda: a @ b, "copy": lambda: other.copy_(data)}, rounds=9)
    return {
        "float16_flops": 2 * side**3 / float(np.median(found["matmul"])),
        "bytes_per_second": 2 * data.numel() / float(np.median(found["copy"])),
    }
