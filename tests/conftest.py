"""Settings for all tests: no network, one thread a process (the models are tiny and tests run side by side)."""

import os
import signal

# Started in the background a process ignores SIGINT, by which the exercises stop a loop without end; it would spin for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    """What is marked gpu needs a CUDA device, what is marked full MINIMISTRAL_FULL=1; tests/run.py says what was left out."""
    there = {"gpu": torch.cuda.is_available(), "full": bool(os.environ.get("MINIMISTRAL_FULL"))}
    without = [item for item in items if any(item.get_closest_marker(mark) and not yes for mark, yes in there.items())]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]
