"""One process of a data-parallel training, started by torchrun: trains, and rank 0 converts."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from optkit.torch import Recipe, convert, prepare
from tests.torch.qat_models import images, make


def main(folder: Path) -> None:
    """Different data in every process, the same model; writes each rank's state, and the converted model."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    module = prepare(make("residual"), Recipe(weight_bits=4), (images(4),), calibration=[images(8)]).train()
    parallel = DistributedDataParallel(module)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.05, momentum=0.9)
    for step in range(4):
        optimizer.zero_grad()
        parallel(images(8, seed=100 * rank + step)).square().mean().backward()
        optimizer.step()
    torch.save({n: p.detach() for n, p in module.named_parameters()}, folder / f"rank{rank}.pt")
    if rank == 0:
        convert(parallel, (images(4),), folder / "x.onnx")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
