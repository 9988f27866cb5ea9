"""Reading and writing model folders: Mistral's own three files, and Hugging Face's.

    native   params.json  consolidated.safetensors              tokenizer.model
    hf       config.json  model.safetensors, or shards + index  tokenizer.model

Everything is checked from the headers (a few kilobytes) before a single weight is read: which tensors are there, once each,
with the right shape, in files as long as they claim. Only then is the model made.
"""

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import torch

from minimistral.config import MistralConfig
from minimistral.files import write_all
from minimistral.model import Mistral
from minimistral.tokenizer import Tokenizer

FORMATS = ("native", "hf")
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}  # as safetensors spells them

#: native name -> Hugging Face name; {i} is the layer
HF_NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "layers.{i}.attention_norm": "model.layers.{i}.input_layernorm",
    "layers.{i}.attention.wq": "model.layers.{i}.self_attn.q_proj",
    "layers.{i}.attention.wk": "model.layers.{i}.self_attn.k_proj",
    "layers.{i}.attention.wv": "model.layers.{i}.self_attn.v_proj",
    "layers.{i}.attention.wo": "model.layers.{i}.self_attn.o_proj",
    "layers.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm",
    "layers.{i}.feed_forward.w1": "model.layers.{i}.mlp.gate_proj",
    "layers.{i}.feed_forward.w2": "model.layers.{i}.mlp.down_proj",
    "layers.{i}.feed_forward.w3": "model.layers.{i}.mlp.up_proj",
    "norm": "model.norm",
    "output": "lm_head",
}


class CheckpointError(ValueError):
    """A folder that cannot be loaded as it stands; the message names the file and what to do."""


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies."""

    file: Path
    name: str  # its name in the file
    shape: tuple[int, ...]
    dtype: torch.dtype


def load(folder, device="auto", dtype: torch.dtype | None = None, format: str | None = None):
    """Load a released model folder: -> (model, tokenizer). The tokenizer is None where the folder has none.

    device  "auto": the GPU if there is one, else the CPU
    dtype   None: the checkpoint's own (float16 on a GPU without bfloat16)
    format  "native" or "hf", needed only where the folder holds both

    Raises CheckpointError (or ConfigError, TokenizerError), before any weight is read, for a folder that is not whole.
    """
    folder = Path(folder)
    format = find_format(folder, format)
    config = MistralConfig.from_file(folder / ("params.json" if format == "native" else "config.json"))
    stored = check_tensors(folder, config, format)
    tokenizer = _load_tokenizer(folder, config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    if dtype is None:
        dtype = stored["output.weight"].dtype
        if dtype == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            dtype = torch.float16
    with torch.device("meta"):
        model = Mistral(config)  # shapes only: no memory yet
    weights = _read(stored, config, format, device, dtype)
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval(), tokenizer


def save(model: Mistral, folder, tokenizer: Tokenizer | None = None):
    """Write a model as Mistral's native files: all beside their names first, so that none is ever half there."""
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    files = {
        folder / "consolidated.safetensors": to_bytes(tensors),
        folder / "params.json": (json.dumps(model.config.to_params(), indent=2) + "\n").encode(),
    }
    if tokenizer is not None:
        files[folder / "tokenizer.model"] = tokenizer.path.read_bytes()
    write_all(files)


def find_format(folder: Path, format: str | None = None) -> str:
    """Which of the two formats a folder holds. Raises CheckpointError where that is none, or both and not said."""
    if format not in (None, *FORMATS):
        raise CheckpointError(f"format is {format!r}; expected 'native', 'hf' or None.")
    if not folder.exists():
        raise CheckpointError(f"{folder} does not exist; give the folder that holds params.json or config.json.")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give the folder it lies in.")
    there = [
        name
        for name, config, weights in (("native", "params.json", "consolidated*"), ("hf", "config.json", "model*.safetensors*"))
        if (folder / config).is_file() and any(folder.glob(weights))
    ]
    if format in there:
        return format
    if format or not there:
        wanted = {
            "native": "params.json with consolidated.safetensors",
            "hf": "config.json with model.safetensors (or shards and model.safetensors.index.json)",
        }
        expected = wanted[format] if format else " or ".join(wanted.values())
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise CheckpointError(f"{folder} holds no model to load: expected {expected}; found {names}.")
    if len(there) > 1:
        raise CheckpointError(f"{folder} holds both formats: choose one with format='native' or format='hf'.")
    return there[0]


def expected_shapes(config: MistralConfig) -> dict[str, tuple[int, ...]]:
    """Native name -> shape of every tensor that a model of this config has, and no other."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Mistral(config).state_dict().items()}


def hf_name(native: str) -> str:
    """layers.3.attention.wq.weight -> model.layers.3.self_attn.q_proj.weight"""
    layer = re.search(r"layers\.(\d+)\.", native)
    i = layer.group(1) if layer else ""
    stem = re.sub(r"layers\.\d+\.", "layers.{i}.", native.removesuffix(".weight"))
    return HF_NAMES[stem].replace("{i}", i) + ".weight"


def check_tensors(folder: Path, config: MistralConfig, format: str) -> dict[str, Stored]:
    """Native name -> where it lies, after checking that the folder holds exactly this config's tensors."""
    expected = expected_shapes(config)
    ours = {hf_name(name) if format == "hf" else name: name for name in expected}
    found: dict[str, Stored] = {}
    for file in weight_files(folder, format):
        for name, (shape, kind) in read_header(file).items():
            if name in found:
                raise CheckpointError(f"{name} is in {found[name].file.name} and again in {file.name} of {folder}.")
            if kind not in DTYPES and name in ours:
                raise CheckpointError(f"{name} in {file} is {kind}; expected one of {', '.join(DTYPES)}.")
            found[name] = Stored(file, name, shape, DTYPES.get(kind))
    _check_depth(folder, config, found)
    if missing := sorted(ours.keys() - found.keys()):
        raise CheckpointError(f"{folder} lacks {_some(missing)}, which its config asks for.")
    extra = sorted(name for name in found.keys() - ours.keys() if not name.endswith("rotary_emb.inv_freq"))
    if extra:
        raise CheckpointError(f"{folder} holds {_some(extra)}, which no model of its config has.")
    for name, native in ours.items():
        if found[name].shape != expected[native]:
            raise CheckpointError(
                f"{name} in {found[name].file} has shape {found[name].shape}; the config asks for {expected[native]}."
            )
    return {native: found[name] for name, native in ours.items()}


def weight_files(folder: Path, format: str) -> list[Path]:
    """The files that together hold the weights. A Hugging Face index is followed, and every file it names must be there."""
    single = folder / ("consolidated.safetensors" if format == "native" else "model.safetensors")
    index = folder / (single.name + ".index.json")
    if single.is_file():
        return [single]
    if format == "native":
        raise CheckpointError(f"{folder} has no consolidated.safetensors; other native files are not read yet.")
    if not index.is_file():
        raise CheckpointError(f"{folder} has shards but no {index.name}, which says what belongs where.")
    try:
        files = sorted(set(map(str, json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} cannot be read as an index of shards: {error!r}") from None
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder} lacks the shard {_some(missing)} named in {index.name}: download it again.")
    return [folder / name for name in files]


def read_header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype) from a safetensors file's header; checks that the file is as long as its header says.

    The format: eight bytes with the header's length, that many bytes of JSON, then the numbers.
    """
    from safetensors import SafetensorError, safe_open

    size = file.stat().st_size
    try:
        with open(file, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size - 8:
                raise ValueError(f"its header should be {length} bytes long")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = {name: (tuple(entry["shape"]), entry["dtype"]) for name, entry in header.items()}
    except (ValueError, struct.error, KeyError, IndexError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is not a whole safetensors file of {size} bytes ({error}): download it again.") from None
    if size != 8 + length + end:
        raise CheckpointError(f"{file} is {size} bytes long and its header promises {8 + length + end}: download it again.")
    try:
        with safe_open(file, "pt"):  # it holds the offsets against the shapes
            return tensors
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}): download it again.") from None


def to_half_split(rows: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Reorder the rows of wq or wk (n_heads * D, dim), head by head, from Mistral's pairs (2j, 2j+1) to HF's (j, j + D/2)."""
    return rows.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def to_interleaved(rows: torch.Tensor, n_heads: int) -> torch.Tensor:
    """The way back: from HF's pairs (j, j + D/2) to Mistral's (2j, 2j+1)."""
    return rows.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _read(stored: dict[str, Stored], config, format, device, dtype) -> dict[str, torch.Tensor]:
    from safetensors import safe_open
    from tqdm.auto import tqdm

    opened, weights = {}, {}
    total = sum(torch.Size(place.shape).numel() * place.dtype.itemsize for place in stored.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="loading", disable=total < 2**28, leave=False) as bar:
        for native, place in stored.items():
            if place.file not in opened:
                opened[place.file] = safe_open(place.file, "pt", device="cpu")
            tensor = opened[place.file].get_tensor(place.name).to(device, dtype, copy=True)
            if format == "hf" and native.endswith(("wq.weight", "wk.weight")):
                tensor = to_interleaved(tensor, config.n_heads if native.endswith("wq.weight") else config.n_kv_heads)
            weights[native] = tensor
            bar.update(place.dtype.itemsize * tensor.numel())
    return weights


def _load_tokenizer(folder: Path, config: MistralConfig) -> Tokenizer | None:
    path = next((p for p in (folder / "tokenizer.model", folder / "tokenizer.model.v3") if p.is_file()), None)
    if path is None:
        return None
    tokenizer = Tokenizer(path)
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{path} has {tokenizer.vocab_size} ids and the model has {config.vocab_size}: they do not belong together."
        )
    return tokenizer


def _check_depth(folder, config, found):
    layers = {int(match.group(1)) for name in found if (match := re.search(r"layers\.(\d+)\.", name))}
    depth = max(layers, default=-1) + 1
    if depth != config.n_layers:
        raise CheckpointError(f"The weights in {folder} have {depth} layers and the config says n_layers = {config.n_layers}.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
