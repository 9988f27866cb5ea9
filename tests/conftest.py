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
    """Without a CUDA device the tests marked gpu are left out; tests/run.py says so at its end."""
    if torch.cuda.is_available():
        return
    without = [item for item in items if item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]
