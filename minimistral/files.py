"""Writing files so that nothing is ever half there."""

import os
from collections.abc import Callable
from pathlib import Path


def write(path: Path, data: bytes):
    """Write a file so that it is either the old one or the whole new one. Makes its folder."""
    write_all({path: data})


def write_all(files: dict[Path, bytes | Callable[[Path], None]]):
    """Write several files so, and replace none before all lie there whole: new weights beside old settings are no model.

    Contents too large to hold are given as a function that writes them to the path it is handed.
    """
    parts = {path: path.with_name(path.name + ".part") for path in files}
    try:
        for path, part in parts.items():
            part.parent.mkdir(parents=True, exist_ok=True)
            if callable(data := files[path]):
                data(part)
            else:
                part.write_bytes(data)
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
