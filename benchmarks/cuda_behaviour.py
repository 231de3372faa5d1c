"""How artifacts behave on a GPU: what passes through the host, and what failures say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import optkit
from benchmarks.cuda_cases import FOREIGN, Case
from benchmarks.on_gpu import visible
from optkit.errors import OptkitError


def transfers(case: Case, folder: Path) -> dict[str, Any]:
    """What a run with tensors of torch copies between host and GPU, by the profiler; and whether inputs are shared."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with optkit.load(folder / f"{case.name}.fp16.optk") as runner:
        tensors = {name: torch.from_numpy(array).cuda() for name, array in case.feed().items()}
        for _ in range(3):
            runner.run_on_device(tensors)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            outputs = runner.run_on_device(tensors)
            torch.cuda.synchronize()
        copies = [event.name for event in found.events() if "memcpy" in event.name.lower()]
        result = {name: torch.from_dlpack(value) for name, value in outputs.items()}
    return {
        "between_host_and_gpu": [name for name in copies if "HtoD" in name or "DtoH" in name],
        "on_gpu": len(copies),
        "outputs": {name: [str(value.device), list(value.shape)] for name, value in result.items()},
    }


_FAILURES = {
    "no device": ("", "import optkit,sys; optkit.load(sys.argv[1])"),
    "out of memory": (
        None,
        "import torch,optkit,sys,json,numpy as np\n"
        "feed={k:np.zeros(s,d) for k,(s,d) in json.loads(sys.argv[2]).items()}\n"
        "free,_=torch.cuda.mem_get_info(); keep=torch.empty(free-(24<<20),dtype=torch.uint8,device='cuda')\n"
        "r=optkit.load(sys.argv[1]); r.run(feed); raise SystemExit('it had enough')",
    ),
    "lost device": (
        None,
        "import torch,optkit,sys,json,numpy as np\n"
        "feed={k:np.zeros(s,d) for k,(s,d) in json.loads(sys.argv[2]).items()}\n"
        "r=optkit.load(sys.argv[1]); r.run(feed)\n"
        "t=torch.zeros(4,device='cuda'); t[torch.tensor([99],device='cuda')]=1\n"
        "r.run(feed); raise SystemExit('it went on')",
    ),
}


def failures(case: Case, folder: Path) -> dict[str, list[str]]:
    """The last lines that a program prints when it meets each failure."""
    path = folder / f"{case.name}.fp16.optk"
    feed = json.dumps({name: [array.shape, array.dtype.name] for name, array in case.feed().items()})
    found = {}
    for name, (devices, program) in _FAILURES.items():
        wrapped = (
            f"import optkit.errors\ntry:\n    exec({program!r})\nexcept optkit.errors.OptkitError as e:\n    print(e)"
        )
        done = subprocess.run(
            [sys.executable, "-c", wrapped, str(path), feed],
            capture_output=True,
            text=True,
            check=False,
            env=visible(devices),
            timeout=120,
        )
        found[name] = [*done.stdout.strip().splitlines(), *done.stderr.strip().splitlines()[-1:]]
    try:
        optkit.load(folder / f"{case.name}.{FOREIGN}.optk")
        found["wrong architecture"] = ["it was loaded"]
    except OptkitError as error:
        found["wrong architecture"] = [str(error)]
    return found
