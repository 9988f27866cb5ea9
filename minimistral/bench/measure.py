"""How to time two things so that their ratio means something.

Contenders take turns, so that whatever slows the machine slows all of them; the order is reversed every other round; the
first call of each is not counted. A ratio is the median over rounds, with the middle half of the rounds as its spread, and
is not given where that spread covers 1.
"""

import gc
import os
import platform
import time
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from statistics import median, quantiles

import torch


def paired(contenders: dict, rounds: int, device: str, tick=lambda: None, seconds: dict | None = None,
           absent: dict | None = None, within: float | None = None) -> dict[str, list[float]]:
    """Seconds of each call of each contender (name -> function without arguments), `rounds` of them; tick() after each call.

    seconds  where to keep them: so they are there after an interrupt too
    absent   where to note why a contender is out, if one fails; without it the error is raised
    within   stop after so many seconds, once there are two rounds; where absent is given, leave out what would take longer alone
    """
    seconds = {} if seconds is None else seconds
    seconds.update({name: [] for name in contenders})
    start = time.perf_counter()
    for turn in range(rounds + 1):
        if turn > 2 and within is not None and time.perf_counter() - start > within:
            break
        order = list(seconds) if turn % 2 else list(reversed(seconds))
        for name in order:
            try:
                taken = once(contenders[name], device)
            except Exception as error:
                if absent is None:
                    raise
                absent[name] = reason(error)
                del seconds[name]
                free(device)
                continue
            finally:
                tick()
            if turn:
                seconds[name].append(taken)
            elif within is not None and absent is not None and 2 * taken > within:
                absent[name] = f"left out: {taken:.0f} s a call, and there are {within:.0f} s"
                del seconds[name]
    return seconds


def reason(error: Exception) -> str:
    """Why there is no figure, in a few words."""
    if isinstance(error, ImportError):
        return "not installed"
    said = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in said:
        return "out of memory"
    return f"failed: {type(error).__name__}: {said[:200]}"


def free(device: str):
    """Give back what a contender that failed had taken."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def once(call, device: str) -> float:
    """Seconds of one call, until a GPU has finished too."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Ratio:
    """How many times as fast: median and the quartiles around it, over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self):
        if self.low <= 1 <= self.high:
            return f"no difference seen ({self.low:.2f} to {self.high:.2f})"
        return f"{self.median:.2f} times ({self.low:.2f} to {self.high:.2f})"


def ratio(slow: list[float], fast: list[float]) -> Ratio:
    """slow over fast, round by round. Raises ValueError for lists that are not of the same rounds."""
    if len(slow) != len(fast) or len(slow) < 2:
        raise ValueError(f"{len(slow)} and {len(fast)} samples: a ratio wants two or more rounds of both.")
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    low, _, high = quantiles(each, n=4, method="inclusive")
    return Ratio(median(each), low, high)


def peak_bytes(call, device: str = "cpu") -> int:
    """The most memory that PyTorch held during a call beyond what it held before, its result included."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def machine(device: str) -> dict:
    """What a reader of the figures must know of where they come from."""
    known = {
        "date": date.today().isoformat(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        known |= {"gpu": gpu.name, "gpu_bytes": gpu.total_memory, "cuda": torch.version.cuda}
    for name in ("transformers", "flash_attn"):
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            known[name] = None
    return known


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
