"""Writing model folders of either format tensor by tensor, so that a 7B needs little more memory than its largest matrix."""

import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from minimistral import room
from minimistral.checkpoint import CONFIGS, INDEX, hf_name, inspect, read_tensor, to_half_split, turned_heads
from minimistral.config import HF_NAMES, MistralConfig
from minimistral.files import write_all
from minimistral.model import Mistral
from minimistral.tensorfiles import DTYPES, pth_header
from minimistral.tokenizer import Tokenizer

SPELLED = {dtype: name for name, dtype in DTYPES.items()}


def write_folder(folder, config: MistralConfig, tensors: dict, format: str = "native", shards: int = 1,
                 tokenizer: Tokenizer | None = None, make: Callable | None = None, progress: bool = False):
    """Write a model folder; its files appear under their names when all of them are whole.

    tensors   native name -> tensor. May lie on the meta device where make(name) -> tensor gives the numbers when their turn comes
    format    "native" (consolidated.safetensors), "pth" (consolidated.00.pth) or "hf" (config.json, `shards` files and an index)
    progress  say the bytes first and show a bar

    Raises ValueError for a dtype that load() would not read, and for a disk without room.
    """
    if format not in ("native", "pth", "hf"):
        raise ValueError(f"format is {format!r}; expected 'native', 'pth' or 'hf'.")
    if not isinstance(shards, int) or not 1 <= shards <= len(tensors) or (shards > 1 and format != "hf"):
        raise ValueError(f"shards is {shards!r}: expected 1, or with format='hf' at most one for each of {len(tensors)} tensors.")
    for name, tensor in tensors.items():
        if tensor.dtype not in SPELLED:
            raise ValueError(f"{name} is {tensor.dtype}, which load() does not read: convert the model first, as with .float().")
    folder, total = Path(folder), sum(tensor.nbytes for tensor in tensors.values())
    room.require_disk(folder, total)
    spelled = {hf_name(name) if format == "hf" else name: name for name in tensors}

    def numbers(name):
        native = spelled[name]
        tensor = (tensors[native] if make is None else make(native)).detach().cpu()
        if format == "hf" and (heads := turned_heads(native, config)):
            tensor = to_half_split(tensor, heads)
        return tensor.contiguous()

    from tqdm.auto import tqdm

    if progress:
        print(f"{folder}: {total:,} bytes of tensors ({room.gib(total)}) to write", flush=True)
    with tqdm(total=total, unit="B", unit_scale=True, desc="writing", disable=not progress) as bar:
        files: dict[Path, bytes | Callable] = {}
        index: dict[str, str] = {}
        for file, names in _split(spelled, tensors, format, shards).items():
            index |= dict.fromkeys(names, file)
            like = {name: tensors[spelled[name]] for name in names}
            files[folder / file] = partial(_pth if format == "pth" else _safetensors, like=like, numbers=numbers, tick=bar.update)
        if len(files) > 1:
            files[folder / INDEX] = _json({"metadata": {"total_size": total}, "weight_map": index})
        dtype = str(tensors["output.weight"].dtype).removeprefix("torch.")
        settings = hf_config(config, dtype) if format == "hf" else config.to_params()
        files[folder / CONFIGS["hf" if format == "hf" else "native"]] = _json(settings)
        if tokenizer is not None:
            files[folder / "tokenizer.model"] = tokenizer.path.read_bytes()
        write_all(files)


def convert(folder, to, format: str = "hf", shards: int = 1, source: str | None = None):
    """Write a model folder again in a format of choice, a tensor at a time: the 7B needs no memory of its size.

    source  which format to read, where the folder holds both
    """
    found = inspect(folder, source)
    if Path(to).resolve() == Path(folder).resolve():
        raise ValueError(f"{to} is the folder that is read: give another one.")
    with torch.device("meta"):
        tensors = {name: tensor.to(found.dtype) for name, tensor in Mistral(found.config).state_dict().items()}

    def make(name):
        return read_tensor(name, found.tensors[name], found.config, found.format, "cpu", found.dtype)[0]

    write_folder(to, found.config, tensors, format, shards, found.tokenizer, make, progress=True)


def hf_config(config: MistralConfig, dtype: str) -> dict:
    """A config.json that transformers opens as a Mistral; as a Ministral where some layers have a window and others none.

    Raises ValueError for windows of several widths, which transformers has no way to say.
    """
    ours, mixed = config.to_params(), {}
    if config.is_mixed:
        widths = sorted({window for window in config.windows if window})
        if len(widths) > 1:
            raise ValueError(f"The layers' windows are {widths} wide; transformers knows one width a model: save it as native.")
        ours["sliding_window"] = widths[0]
        types = ["sliding_attention" if window else "full_attention" for window in config.windows]
        mixed = {"architectures": ["MinistralForCausalLM"], "model_type": "ministral", "layer_types": types}
    fixed = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "torch_dtype": dtype,
             "tie_word_embeddings": False, "max_position_embeddings": 32768, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    return fixed | {theirs: ours[name] for theirs, name in HF_NAMES.items()} | mixed


def _split(spelled, tensors, format, shards):
    """File name -> its tensors' names, in order, in `shards` files of about the same size, none of them empty."""
    if format != "hf":
        return {"consolidated.safetensors" if format == "native" else "consolidated.00.pth": list(spelled)}
    if shards == 1:
        return {"model.safetensors": list(spelled)}
    total, done, parts, names = sum(tensor.nbytes for tensor in tensors.values()), 0, [[] for _ in range(shards)], list(spelled)
    at = 0
    for n, name in enumerate(names):
        if parts[at] and at < shards - 1 and (done >= total * (at + 1) / shards or len(names) - n < shards - at):
            at += 1
        parts[at].append(name)
        done += tensors[spelled[name]].nbytes
    return {f"model-{n:05}-of-{shards:05}.safetensors": part for n, part in enumerate(parts, 1)}


def _safetensors(path, like, numbers, tick):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in like.items():
        header[name] = {"dtype": SPELLED[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in like:
            tick(stream.write(_bytes(numbers(name))))


def _pth(path, like, numbers, tick):
    """torch.save would hold everything in memory: let it leave the numbers out, and put each in its place.

    The zip's checksums stay those of the gaps. PyTorch does not look at them; `unzip` would complain.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        empty = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in like.items()}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(empty, path)
    with open(path, "r+b") as stream:
        for name, place in pth_header(path).items():
            stream.seek(place.start)
            tick(stream.write(_bytes(numbers(name))))


def _bytes(tensor):
    return memoryview(tensor.flatten().view(torch.uint8).numpy())


def _json(value) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
