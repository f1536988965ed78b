"""Several processes that train one network together, one per GPU.

They are started and joined here, or started by torchrun. Every process draws the same batches and
takes its part of each; gradients are averaged by PyTorch's DistributedDataParallel and batch
normalisation sees the whole batch, so that the number of processes changes a result by rounding
alone. The paper trained on one GPU; this is [ours].

The store of torchrun, by which its processes find each other, listens on every network interface
and asks no one for a password. On one machine `launch` takes a file in its stead, and what the
processes exchange stays on the loopback interface.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcnn_core.errors import InputError, LostProcessError
from mcnn_core.machine.device import device

#: In the environment of a process that `launch` started: the file by which it finds the others.
MEETING = "MCNN_MEETING"
#: Seconds that processes have to end by themselves once another has ended.
GRACE = 30
RESUME = "Run the same command again: it resumes from the last checkpoint"


@dataclass(frozen=True)
class Team:
    """The processes of one training, as one of them sees them."""

    rank: int = 0  #: this process, from 0
    size: int = 1  #: number of processes

    def spread(self, model: nn.Module) -> nn.Module:
        """Return the network to call in training: `model`, or wrapped to average gradients."""
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
    """Join the processes that `launch` or torchrun started; alone without them.

    Raises
    ------
    LostProcessError
        If another process ends while this one waits for it.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Team()
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # torchrun's otherwise
    store = dist.FileStore(os.environ[MEETING], size) if MEETING in os.environ else None
    dist.init_process_group(
        "nccl" if device().type == "cuda" else "gloo", store=store, rank=rank, world_size=size
    )
    # The launcher ends the others as soon as one has ended; or their exchange fails first.
    before = signal.signal(signal.SIGTERM, _ended)
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(
            word in str(error) for word in ("gloo", "NCCL", "closed by peer")
        ):
            _ended()
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is _ended:
            signal.signal(signal.SIGTERM, before)
        dist.destroy_process_group()


def _ended(*_: object) -> None:
    # or the launcher's signal ends this process before it has said why
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise LostProcessError(
        f"Another process of this training has ended, so all of them stop. {RESUME}"
    )


def check_processes(processes: int) -> None:
    """Refuse more processes than this machine has GPUs, or without one, cores."""
    gpus = torch.cuda.device_count()
    most = gpus or os.cpu_count() or 1
    if processes > most:
        raise InputError(
            f"--processes: expected 1 to {most} here, one per "
            f"{'GPU' if gpus else 'core of the CPU'}, got {processes}"
        )


def launch(command: Sequence[str | os.PathLike], processes: int) -> None:
    """Run a command in several processes of this machine; return when all have ended well.

    They find each other where it calls `team`.

    Parameters
    ----------
    command : sequence of str or path
    processes : int
        One per GPU, or any number that share the CPU's cores.

    Raises
    ------
    LostProcessError
        If one was killed; the others are ended.
    SystemExit
        If one ended with another status than 0, with that status: it has said why.
    """
    started: list[subprocess.Popen] = []
    stopped: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: stopped.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    # Its blocking is inherited: Ctrl-C reaches this process alone, so that one message is printed
    # and not one per process.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with tempfile.TemporaryDirectory(prefix="mcnn-") as private:
        try:
            for rank in range(processes):
                environment = _environment(rank, processes, f"{private}/meeting")
                started.append(subprocess.Popen(command, env=environment))
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            codes: list[Any] = [None] * processes
            while codes.count(0) < processes and not any(codes):
                if stopped:
                    raise KeyboardInterrupt
                time.sleep(0.1)
                codes = [process.poll() for process in started]
            if any(codes):
                _end(started)
                ended, code = next((rank, code) for rank, code in enumerate(codes) if code)
                if code < 0:
                    raise LostProcessError(
                        f"Process {ended + 1} of {processes} was ended by "
                        f"{signal.Signals(-code).name}, so all of them stop. {RESUME}"
                    )
                sys.exit(code)
        finally:
            # On Ctrl-C; files are whole or absent, so nothing is left to finish.
            for process in started:
                process.kill()
                process.wait()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for number, handler in before.items():
                signal.signal(number, handler)


def _environment(rank: int, processes: int, meeting: str) -> dict[str, str]:
    """Return the environment of one process of a team, by which it finds the others."""
    loopback = next(name for _, name in socket.if_nameindex() if name in ("lo", "lo0"))
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes))
    return os.environ | {
        MEETING: meeting,
        "WORLD_SIZE": str(processes),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "OMP_NUM_THREADS": threads,
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": f"={loopback}",
    }


def _end(started: Sequence[subprocess.Popen]) -> None:
    """Let processes say why they end, for they may be waiting for one that has ended."""
    for process in started:
        process.terminate()
    until = time.monotonic() + GRACE
    while any(process.poll() is None for process in started) and time.monotonic() < until:
        time.sleep(0.1)


class _Total(torch.autograd.Function):
    """The sum of a tensor over all processes.

    Each process's loss depends on the sum, so its gradient is the sum of their gradients.
    """

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(total := x.clone())
        return total

    backward = forward


class _SharedNorm(_BatchNorm):
    """Batch normalisation over the batches of all processes; PyTorch's own does so on GPUs only."""

    # PyTorch's may lack them; those of our networks do not.
    momentum: float
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

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
        variance = square - mean**2
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        shape = (1, -1, *[1] * (x.dim() - 2))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return values * scale.view(shape) + (self.bias - mean * scale).view(shape)


def _share_norms(model: nn.Module) -> None:
    """Let every batch normalisation see the batches of all processes; parameters stay the same."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                shared = _SharedNorm(child.num_features, child.eps, child.momentum).to(
                    child.weight.device
                )
                shared.weight, shared.bias = child.weight, child.bias
                for kept in ("running_mean", "running_var", "num_batches_tracked"):
                    setattr(shared, kept, getattr(child, kept))
                setattr(parent, name, shared)
