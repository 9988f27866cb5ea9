"""Trained models that come with the package: those that take too long to train in a lesson."""

from pathlib import Path

import torch

from minimistral.checkpoint import load
from minimistral.model import Mistral

FOLDER = Path(__file__).parent / "models"


def names() -> list[str]:
    """What there is, as cliff-4-layers-window-16."""
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def shipped(name: str) -> Mistral:
    """One of names(), float32, on the CPU. How it was trained is said by its name and `minimistral reach`, seed 0."""
    if name not in names():
        raise ValueError(f"name is {name!r}; expected one of {', '.join(names())}.")
    return load(FOLDER / name, device="cpu", dtype=torch.float32)[0]
