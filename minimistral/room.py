"""How much room there is: memory for weights, disk for files. Asked before anything is loaded or written."""

import shutil
from pathlib import Path

import torch


def memory(device="cpu", proc="/proc", cgroups="/sys/fs/cgroup") -> int | None:
    """Bytes of memory that can still be had on a device; None where the system does not say (on a CPU: outside Linux).

    A GPU is asked itself. On a CPU it is what the kernel calls available, or what the process's control groups leave,
    whichever is less; the cache of files counts as free, because it gives way.
    """
    device = torch.device(device)
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    if device.type != "cpu":
        return None
    known = [*_machine(Path(proc)), *_groups(Path(proc), Path(cgroups))]
    return max(0, min(known)) if known else None


def disk(folder) -> int:
    """Bytes free where a folder lies, or would lie."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def gib(size: int) -> str:
    """A number of bytes for people: 14483464192 -> '13.49 GiB'; small ones in MiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"


def require_disk(folder, needed: int):
    """Raise ValueError, with both numbers, where a folder's disk has too little room."""
    if (free := disk(folder)) < needed:
        said = f"{folder} needs {gib(needed)} ({needed:,} bytes) more, and its disk has {gib(free)} free"
        raise ValueError(f"{said}: make room first.")


def _machine(proc):
    try:
        lines = (proc / "meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    yield from (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _groups(proc, root):
    """What each control group above this process leaves of its limit (version 1 and 2 spell their files differently)."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers == "memory":
            top, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif controllers == "":
            top, names = root, ("memory.max", "memory.current")
        else:
            continue
        path = top / own.lstrip("/")
        for group in (path, *path.parents):
            if group == root.parent:
                break
            try:
                limit, used = ((group / name).read_text(encoding="utf-8").strip() for name in names)
                stat = dict(entry.split() for entry in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
            except (OSError, ValueError):
                continue
            if limit != "max":
                total = "total_" if "total_inactive_file" in stat else ""  # version 1: with the groups below
                cache = sum(int(stat.get(f"{total}{kind}_file", 0)) for kind in ("inactive", "active"))
                yield int(limit) - int(used) + cache
