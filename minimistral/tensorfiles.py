"""Files full of tensors: what lies where in them, and reading one of them.

    .safetensors   eight bytes with the header's length; that many bytes of JSON (name: dtype, shape, offsets); the numbers
    .pth           a zip archive by torch.save: a pickle (name: dtype, shape, which entry), and an entry of numbers a tensor

A pickle can hold code. PyTorch's weights_only reader runs none and refuses it.
"""

import json
import mmap
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}  # as safetensors spells them


class CheckpointError(ValueError):
    """A folder that cannot be loaded as it stands; the message names the file and what to do."""


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies."""

    file: Path
    name: str  # its name in the file
    shape: tuple[int, ...]
    dtype: torch.dtype  # one that is not read stays as the file spells it, a string: "I8"
    start: int = 0  # of its first byte in the file

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def read_header(file: Path) -> dict[str, Stored]:
    """Name -> where it lies, of all tensors of a file. No number is read; the file must be as long as it says.

    Raises CheckpointError, naming the file, where it is cut off, damaged or no such file at all, or holds code.
    """
    return (pth_header if file.suffix == ".pth" else _safetensors_header)(file)


def _safetensors_header(file):
    from safetensors import SafetensorError, safe_open

    size = file.stat().st_size
    try:
        with open(file, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size - 8:
                raise ValueError(f"its header should be {length} bytes long")
            header = json.loads(stream.read(length), object_pairs_hook=_once_each)
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        stored = {
            name: Stored(file, name, tuple(entry["shape"]), DTYPES.get(entry["dtype"], entry["dtype"]),
                         8 + length + entry["data_offsets"][0])
            for name, entry in header.items()
        }  # fmt: skip
    except (ValueError, struct.error, KeyError, IndexError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is not a whole safetensors file of {size} bytes ({error}): download it again.") from None
    if size != 8 + length + end:
        raise CheckpointError(f"{file} is {size} bytes long and its header promises {8 + length + end}: download it again.")
    try:
        with safe_open(file, "pt"):  # it holds the offsets against the shapes
            return stored
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}): download it again.") from None


def _once_each(pairs):
    names = [name for name, _ in pairs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"its header names {', '.join(sorted(twice))} twice")
    return dict(pairs)


def pth_header(file: Path) -> dict[str, Stored]:
    """read_header() of a .pth, whatever its name ends in."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with zipfile.ZipFile(file) as archive:
            if any(entry.compress_type for entry in archive.infolist()):
                raise CheckpointError(f"{file} is a compressed archive, not a file by torch.save: download it again.")
        with FakeTensorMode():  # tensors without memory, which know where in the file they begin
            tensors = torch.load(file, weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error: ")[-1].split("\n")[0].strip()
        raise CheckpointError(f"{file} holds more than tensors ({reason}): refused, since a pickle can run code.") from None
    except (RuntimeError, zipfile.BadZipFile, EOFError, KeyError) as error:
        size, reason = file.stat().st_size, str(error).split("\n")[0][:100]
        raise CheckpointError(f"{file} is not a whole .pth file of {size} bytes ({reason}): download it again.") from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{file} holds something else than named tensors; expected what torch.save(state_dict) writes.")
    if askew := [name for name, tensor in tensors.items() if not tensor.is_contiguous()]:
        raise CheckpointError(f"{askew[0]} in {file} does not lie row by row; save it again after .contiguous().")
    return {name: _where(file, name, tensor) for name, tensor in tensors.items()}


def _where(file, name, tensor):
    dtype = tensor.dtype if tensor.dtype in DTYPES.values() else str(tensor.dtype).removeprefix("torch.")
    start = tensor.untyped_storage()._checkpoint_offset + tensor.storage_offset() * tensor.element_size()
    return Stored(file, name, tuple(tensor.shape), dtype, start)


def read(stored: Stored) -> torch.Tensor:
    """One tensor, mapped: its numbers are the file's own pages, which come when they are touched and go with the tensor.

    Writing to it changes memory only, never the file. Files that are replaced leave it alone, as os.replace and `mv` do it;
    a file cut short or written over in place (`cp`) would not: clone() a tensor that has to outlive that.
    """
    start = stored.start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY  # a mapping begins at a whole page
    end = stored.start + stored.nbytes
    try:
        with open(stored.file, "rb") as stream:
            mapped = mmap.mmap(stream.fileno(), end - start, access=mmap.ACCESS_COPY, offset=start)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{stored.name} cannot be read from {stored.file} ({error}): has the file changed?") from None
    numbers = torch.frombuffer(mapped, dtype=torch.uint8, offset=stored.start - start)
    if stored.start % stored.dtype.itemsize:  # a number across two cells of memory is no number to a processor
        numbers = numbers.clone()
    return numbers.view(stored.dtype).view(stored.shape)
