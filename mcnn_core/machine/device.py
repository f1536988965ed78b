"""The processor that computes: which one, at what precision, fed how, and reproducibly."""

import ctypes
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch


@lru_cache(maxsize=1)
def device() -> torch.device:
    """Return the device that computes: the GPU where there is one, else the CPU.

    On a CPU torch then computes each operation in the thread that asks for it: threads of its own
    wait for each other after every layer, for long where other programs are running. Whoever has
    work for several gives each a part of its own (`workers`).
    """
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    torch.set_num_threads(1)
    _keep_memory()
    return torch.device("cpu")


@lru_cache(maxsize=1)
def workers() -> int:
    """Return how many threads share what a network computes.

    One for a GPU, else one per core that this process may use, or `OMP_NUM_THREADS`.
    """
    if device().type == "cuda":
        return 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(limit) if limit.isdecimal() and int(limit) else usable or 1


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
    """Whether to compute convolutions in bfloat16; "auto" means where it is fast here.

    The model of the processor decides, so the answer is the same in every run. AMX multiplies
    bfloat16 several times as fast as float32, and AVX512-BF16 does so twice as fast on AMD, but
    half as fast on an Intel processor without AMX. Elsewhere bfloat16 is emulated or untried.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    amd = "AMD" in str(able.get("cpu_name"))
    return bool(able.get("amx_bf16") or (amd and able.get("avx512_bf16")))


def pinned(array: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor, in memory that a GPU can copy from where there is one."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device().type == "cuda" else tensor


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Make the next two items in a thread while one is used, where a GPU does the computing.

    A CPU has no time to spare.
    """
    if device().type == "cpu":
        yield from items
        return
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, None) for _ in range(2))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item


@contextmanager
def reproducible(seed: int, epoch: int) -> Iterator[np.random.Generator]:
    """Derive all randomness of an epoch from seed and epoch.

    Yield NumPy's generator; torch's serves dropout.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with (
        torch.random.fork_rng(devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(int(np.random.SeedSequence([seed, 2, epoch]).generate_state(1)[0]))
        yield np.random.default_rng([seed, 3, epoch])
