"""Rivals other than ONNX Runtime, each set up for the latency of one request.

Every function is a `optkit.measure.worker.Loader`: a contestant of kind "benchmarks.peers:openvino" is loaded by
`openvino` in a process of its own. What a rival needs is imported there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optkit.measure.worker import Feed, Loaded

TVM_SETTINGS = "its ONNX importer, default pipeline, no tuning: TVM has no CPU schedules for convolutions"


def openvino(path: str, threads: int, feed: Feed, options: Mapping[str, str]) -> Loaded:
    """OpenVINO's CPU plugin: latency hint, one stream, inputs shared and not copied.

    Options:
        precision: of floating-point layers, "f32" or "bf16" (INFERENCE_PRECISION_HINT).
    """
    import openvino as ov

    compiled = ov.Core().compile_model(
        path,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": options["precision"],
        },
    )
    request = compiled.create_infer_request()
    for port in compiled.inputs:
        request.set_tensor(port, ov.Tensor(np.ascontiguousarray(feed[port.get_any_name()]), shared_memory=True))
    return lambda: request.infer(share_outputs=True), {"openvino": ov.__version__}


def torch_compile(path: str, threads: int, feed: Feed, options: Mapping[str, str]) -> Loaded:
    """torch.compile through Inductor in its default mode, weights frozen, images channels-last.

    Options:
        model: name in the zoo; the ONNX file is not read.
        precision: "f32" or "bf16", which the whole module is cast to.
    """
    import os

    # Its compile workers are processes of their own, which stopping this one would not stop.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    import torch
    from torch._inductor import config

    from benchmarks.zoo import ZOO

    torch.set_num_threads(threads)
    config.freezing = True
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[options["precision"]]
    module = ZOO[options["model"]].build().eval().to(kind)
    inputs = [torch.from_numpy(array) for array in feed.values()]
    inputs = [tensor.to(kind) if tensor.is_floating_point() else tensor for tensor in inputs]
    if any(tensor.dim() == 4 for tensor in inputs):
        module = module.to(memory_format=torch.channels_last)
        inputs = [
            tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor for tensor in inputs
        ]
    compiled = torch.compile(module)

    def run() -> object:
        with torch.inference_mode():
            return compiled(*inputs)

    with torch.no_grad():
        compiled(*inputs)
    return run, {"torch": torch.__version__}


def tvm(path: str, threads: int, feed: Feed, options: Mapping[str, str]) -> Loaded:
    """TVM as it comes: its ONNX importer and default pipeline."""
    import os

    os.environ["TVM_NUM_THREADS"] = str(threads)
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    from optkit.compiler.build import tvm_target
    from optkit.steps import choose_target

    model = onnx.load(path)
    target = tvm_target(choose_target("cpu", threads))
    module = relax.transform.DecomposeOpsForInference()(from_onnx(model, keep_params_in_input=False))
    machine = relax.VirtualMachine(tvm.compile(module, target), tvm.cpu())
    arguments = [tvm.runtime.tensor(feed[value.name]) for value in model.graph.input if value.name in feed]
    return lambda: machine["main"](*arguments), {"tvm": tvm.__version__}
