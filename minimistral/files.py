"""Writing files so that nothing is ever half there."""

import os
from pathlib import Path


def write(path: Path, data: bytes):
    """Write a file so that it is either the old one or the whole new one. Makes its folder."""
    write_all({path: data})


def write_all(files: dict[Path, bytes]):
    """Write several files so, and replace none before all lie there whole: new weights beside old settings are no model."""
    parts = {path: path.with_name(path.name + ".part") for path in files}
    try:
        for path, part in parts.items():
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(files[path])
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
