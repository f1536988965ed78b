"""The processor that computes: which one, at what precision, reproducibly."""

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch

# The machine ---------------------------------------------------------------


@lru_cache(maxsize=1)
def device() -> torch.device:
    """Return this process's device: its GPU where there is one, else the CPU.

    torchrun numbers the GPUs.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        return torch.device("cuda", torch.cuda.current_device())
    _keep_memory()
    return torch.device("cpu")


def _keep_memory() -> None:
    """Have glibc keep freed memory.

    Activations of many megabytes are otherwise returned to the system and zeroed anew in every
    step, which takes up to a third of the time. No other C library knows these settings, or needs
    them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt:
        trim_threshold, mmap_max = -1, -4  # their numbers in malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def bfloat16(precision: str = "auto") -> bool:
    """Whether to compute convolutions in bfloat16: "auto" means where it is faster here."""
    return _bfloat16_is_faster(device().type) if precision == "auto" else precision == "bfloat16"


@lru_cache(maxsize=2)
def _bfloat16_is_faster(kind: str) -> bool:
    """Multiply matrices in both precisions.

    That a processor has instructions for bfloat16 does not tell: with AMX they are several times as
    fast as float32, without it they can take twice as long. So a clear margin decides, not noise.
    """
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    if not (able.get("amx_bf16") or able.get("avx512_bf16") or able.get("bf16")):
        return False  # emulated: slower than float32
    threads = torch.get_num_threads()
    # Threads that wait for each other on a busy machine would measure that.
    torch.set_num_threads(1)
    try:
        pairs = [
            (_product_seconds(torch.bfloat16), _product_seconds(torch.float32)) for _ in range(16)
        ]
    finally:
        torch.set_num_threads(threads)
    quickest = np.min(pairs, axis=0)
    return bool(quickest[0] < 0.8 * quickest[1])


def _product_seconds(dtype: torch.dtype, side: int = 512) -> float:
    """Return the wall time of a product of two square matrices on the CPU."""
    matrix = torch.ones(side, side, dtype=dtype)
    began = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - began


@contextmanager
def reproducible(seed: int, epoch: int, rank: int = 0) -> Iterator[np.random.Generator]:
    """Derive all randomness of an epoch from seed and epoch.

    Yield NumPy's generator, the same in every process. torch's serves dropout, which each process
    draws for its own part of a batch.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with (
        torch.random.fork_rng(devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(
            int(np.random.SeedSequence([seed, 2, epoch, *[rank] * (rank > 0)]).generate_state(1)[0])
        )
        yield np.random.default_rng([seed, 3, epoch])
