"""Several processes that train one network together, one per GPU: started by torchrun, joined here.

Every process draws the same batches and takes its part of each; gradients are averaged by PyTorch's
DistributedDataParallel and batch normalisation sees the whole batch, so that the number of processes changes
a result by rounding alone. The paper trained on one GPU; this is [ours].
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcnn_core.engine import device
from mcnn_core.errors import LostProcessError


@dataclass(frozen=True)
class Team:
    """The processes of one training, as one of them sees them."""

    rank: int = 0  #: this process, from 0
    size: int = 1  #: number of processes

    def spread(self, model: nn.Module) -> nn.Module:
        """Return the network to call in training: `model` itself, or wrapped so that gradients are averaged."""
        if self.size == 1:
            return model
        _share_norms(model)
        return nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False)

    def total(self, sums: np.ndarray) -> np.ndarray:
        """Return the sum of an array over all processes."""
        if self.size == 1:
            return sums
        dist.all_reduce(added := torch.from_numpy(sums.copy()).to(device()))
        return added.cpu().numpy()

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def team() -> Iterator[Team]:
    """Join the processes that torchrun started; alone without it.

    Raises
    ------
    LostProcessError
        If another process ends while this one waits for it.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Team()
        return
    dist.init_process_group("nccl" if device().type == "cuda" else "gloo")
    # The launcher ends the others as soon as one has ended; or their exchange fails first.
    before = signal.signal(signal.SIGTERM, _ended)
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "closed by peer")):
            _ended()
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is _ended:
            signal.signal(signal.SIGTERM, before)
        dist.destroy_process_group()


def _ended(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # or the launcher's signal ends this process before it has said why
    raise LostProcessError("Another process of this training has ended, so all of them stop. "
                           "Run the same command again: it goes on from the last checkpoint")


class _Total(torch.autograd.Function):
    """The sum of a tensor over all processes. Each process's loss depends on the sum, so its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(total := x.clone())
        return total

    backward = forward


class _SharedNorm(_BatchNorm):
    """Batch normalisation over the batches of all processes; PyTorch's own does so on GPUs only."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        over = [0, *range(2, x.dim())]
        values = x.float()
        count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
        sums = _Total.apply(torch.cat([values.sum(over), values.square().sum(over), count]))
        n = sums[-1].detach()
        mean, square = (sums[:-1] / n).chunk(2)
        variance = square - mean ** 2
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        shape = (1, -1, *[1] * (x.dim() - 2))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return values * scale.view(shape) + (self.bias - mean * scale).view(shape)


def _share_norms(model: nn.Module) -> None:
    """Let every batch normalisation of a network see the batches of all processes; parameters stay the same objects."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                shared = _SharedNorm(child.num_features, child.eps, child.momentum).to(child.weight.device)
                shared.weight, shared.bias = child.weight, child.bias
                shared.running_mean, shared.running_var = child.running_mean, child.running_var
                shared.num_batches_tracked = child.num_batches_tracked
                setattr(parent, name, shared)
