"""Reading and writing model folders: Mistral's own three files, and Hugging Face's.

    native   params.json  consolidated.safetensors              tokenizer.model
    hf       config.json  model.safetensors, or shards + index  tokenizer.model

Everything is checked from the headers (a few kilobytes) before a single weight is read: which tensors are there, once each,
with the right shape, in files as long as they claim. Only then is the model made.
"""

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from minimistral import counting, room, tensorfiles
from minimistral.config import MistralConfig
from minimistral.model import Mistral
from minimistral.tensorfiles import DTYPES, CheckpointError, Stored, read_header
from minimistral.tokenizer import Tokenizer

SMALLER = "Close other programs, or see minimistral.quantize (smaller weights) and minimistral.offload (a layer at a time)."
LARGE = 2**28  # bytes of weights from which a bar is shown, and the CPU's weights stay mapped to their files

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

CONFIGS = {"native": "params.json", "hf": "config.json"}  # by format
INDEX = "model.safetensors.index.json"
#: the files that hold a format's weights: any of these
WEIGHTS = {
    "native": ("consolidated.safetensors", "consolidated.*.pth"),
    "hf": ("model.safetensors", INDEX, "model-*-of-*.safetensors"),
}
TOKENIZERS = ("tokenizer.model", "tokenizer.model.v3")  # the first of these that is there


@dataclass(frozen=True)
class Checkpoint:
    """A folder that has been looked through and found whole."""

    folder: Path
    format: str  # "native" or "hf"
    config: MistralConfig
    files: tuple[Path, ...]  # that hold the weights
    tensors: dict[str, Stored]  # native name -> where it lies
    tokenizer: Tokenizer | None

    @property
    def nbytes(self) -> int:
        """Of all tensors, as they are stored."""
        return sum(place.nbytes for place in self.tensors.values())

    @property
    def dtype(self) -> torch.dtype:
        """The one that all tensors are stored in. Raises CheckpointError where they differ."""
        first, *others = self.tensors.values()
        for place in others:
            if place.dtype != first.dtype:
                raise CheckpointError(
                    f"{self.folder} holds several dtypes ({first.name} is {first.dtype}, {place.name} is {place.dtype}): "
                    "choose one, as in load(folder, dtype=torch.bfloat16)."
                )
        return first.dtype


def load(folder, device="auto", dtype: torch.dtype | None = None, format: str | None = None):
    """Load a released model folder: -> (model, tokenizer). The tokenizer is None where the folder has none.

    device  "auto": the GPU if there is one, else the CPU
    dtype   None: the checkpoint's own (float16 on a GPU without bfloat16)
    format  "native" or "hf", needed only where the folder holds both

    On the CPU a large model stays mapped to its files, and costs no second copy: replace them while it is in use if you must
    (save() does), but write over none in place.
    Raises CheckpointError (or ConfigError, TokenizerError), before any weight is read, for a folder that is not whole and
    for one that memory does not hold. Warns, with its name, of a tensor that holds NaN or infinity.
    """
    found = inspect(folder, format)
    device, dtype = choose(found, device, dtype)
    with torch.device("meta"):
        model = Mistral(found.config)  # shapes only: no memory yet
    require_memory(f"The weights in {folder} need", model.n_parameters() * dtype.itemsize, device)
    weights = _read(found.tensors, found.config, found.format, device, dtype)
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval(), found.tokenizer


def inspect(folder, format: str | None = None) -> Checkpoint:
    """Look a model folder through, headers only, a few kilobytes even of the 7B. Raises the first problem, as load() would."""
    folder = Path(folder)
    format = find_format(folder, format)
    config = MistralConfig.from_file(folder / CONFIGS[format])
    _check_heads(folder, config)
    files = weight_files(folder, format)
    stored = check_tensors(folder, config, format, files)
    return Checkpoint(folder, format, config, tuple(files), stored, _load_tokenizer(folder, config))


def choose(found: Checkpoint, device="auto", dtype: torch.dtype | None = None) -> tuple[torch.device, torch.dtype]:
    """What load()'s device and dtype mean for a checkpoint on this machine."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    if dtype is None:
        dtype = found.dtype
        if dtype == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            dtype = torch.float16
    return device, dtype


def require_memory(what: str, needed: int, device: torch.device, advice: str = SMALLER):
    """Raise CheckpointError, with both numbers, where a device has less memory left. what: "The weights in FOLDER need"."""
    free = room.memory(device)
    if free is not None and needed > free:
        raise CheckpointError(
            f"{what} {room.gib(needed)} of memory, {room.gib(free)} are available on {device.type}. {advice}"
        )


def save(model: Mistral, folder, tokenizer: Tokenizer | None = None):
    """Write a model as Mistral's native files: all beside their names first, so that none is ever half there."""
    from minimistral import writing

    writing.write_folder(folder, model.config, model.state_dict(), "native", tokenizer=tokenizer)


def export(model: Mistral, folder, tokenizer: Tokenizer | None = None, shards: int = 1):
    """Write a model as a Hugging Face folder, which transformers opens: other names, other order of wq's and wk's rows."""
    from minimistral import writing

    writing.write_folder(folder, model.config, model.state_dict(), "hf", shards, tokenizer)


def find_format(folder: Path, format: str | None = None) -> str:
    """Which of the two formats a folder holds. Raises CheckpointError where that is none, or both and not said."""
    if format not in (None, *CONFIGS):
        raise CheckpointError(f"format is {format!r}; expected 'native', 'hf' or None.")
    if not folder.exists():
        raise CheckpointError(f"{folder} does not exist; give the folder that holds params.json or config.json.")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give the folder it lies in.")
    there = [
        name
        for name in CONFIGS
        if (folder / CONFIGS[name]).is_file() and any(any(folder.glob(weights)) for weights in WEIGHTS[name])
    ]
    if format in there:
        return format
    if format or not there:
        wanted = {
            "native": "params.json with consolidated.safetensors (or consolidated.00.pth)",
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


def weight_files(folder: Path, format: str) -> list[Path]:
    """The files that together hold the weights. A Hugging Face index is followed, and every file it names must be there."""
    single, other = (folder / name for name in WEIGHTS[format][:2])
    if format == "native":
        parts = sorted(folder.glob(other.name))
        if len(parts) > 1:
            raise CheckpointError(
                f"{folder} has its weights in {len(parts)} parts ({_some([p.name for p in parts])}); expected one file: "
                "take the Hugging Face files of this model instead."
            )
        if parts and single.is_file():
            raise CheckpointError(f"{folder} holds {single.name} and {parts[0].name}, the weights twice: move one away.")
        return parts or [single]
    index = read_index(other)[0] if other.is_file() else None
    if single.is_file():
        if index and set(index.values()) != {single.name}:
            raise CheckpointError(f"{folder} holds {single.name} and an {other.name} of other files: move one of the two away.")
        return [single]
    if index is None:
        raise CheckpointError(f"{folder} has shards but no {other.name}, which says what belongs where: download it, too.")
    files = sorted(set(index.values()))
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder} lacks the shard {_some(missing)} named in {other.name}: download it again.")
    return [folder / name for name in files]


def read_index(path: Path) -> tuple[dict[str, str], int | None]:
    """A model.safetensors.index.json: -> (tensor name -> name of its file, bytes of all tensors where it says so)."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        places = {str(name): str(file) for name, file in index["weight_map"].items()}
        total = index.get("metadata", {}).get("total_size")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as an index of shards: {error!r}") from None
    if astray := [file for file in places.values() if Path(file).name != file]:
        raise CheckpointError(f"{path} names {astray[0]!r}; a shard lies beside its index, and is named without a path.")
    return places, total


def check_tensors(folder: Path, config: MistralConfig, format: str, files: list[Path]) -> dict[str, Stored]:
    """Native name -> where it lies, after checking that the files hold exactly this config's tensors."""
    expected = expected_shapes(config)
    ours = {hf_name(name) if format == "hf" else name: name for name in expected}
    found: dict[str, Stored] = {}
    for file in files:
        for name, place in read_header(file).items():
            if name in found:
                raise CheckpointError(f"{name} is in {found[name].file.name} and again in {file.name} of {folder}: remove one.")
            if place.dtype not in DTYPES.values() and name in ours:
                raise CheckpointError(f"{name} in {file} is {place.dtype}; expected one of {', '.join(DTYPES)}.")
            found[name] = place
    _check_depth(folder, config, found)
    if missing := sorted(ours.keys() - found.keys()):
        raise CheckpointError(f"{folder} lacks {_some(missing)}, which its config asks for: download it again, or mend that.")
    extra = sorted(name for name in found.keys() - ours.keys() if not name.endswith("rotary_emb.inv_freq"))
    if extra:
        raise CheckpointError(f"{folder} holds {_some(extra)}, which no model of its config has: is the config its own?")
    for name, native in ours.items():
        if found[name].shape != expected[native]:
            raise CheckpointError(
                f"{name} in {found[name].file} has shape {found[name].shape}; the config asks for {expected[native]}."
            )
    if format == "hf" and (index := folder / INDEX).is_file():
        _check_index(index, found, sum(found[name].nbytes for name in ours))
    return {native: found[name] for name, native in ours.items()}


def to_half_split(rows: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Reorder the rows of wq or wk (n_heads * D, dim), head by head, from Mistral's pairs (2j, 2j+1) to HF's (j, j + D/2)."""
    return rows.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def to_interleaved(rows: torch.Tensor, n_heads: int) -> torch.Tensor:
    """The way back: from HF's pairs (j, j + D/2) to Mistral's (2j, 2j+1)."""
    return rows.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def turned_heads(native: str, config: MistralConfig) -> int | None:
    """How many heads have their rows in a tensor that the two formats order differently: wq and wk. None of any other."""
    return {"wq": config.n_heads, "wk": config.n_kv_heads}.get(native.split(".")[-2])


def read_tensor(native: str, place: Stored, config, format, device, dtype, tick=lambda size: None) -> tuple[torch.Tensor, bool]:
    """One tensor as the model wants it: wq's and wk's rows in Mistral's order, on its device. It may be mapped to its file.

    -> (tensor, whether all its numbers are finite). tick(bytes) when it is done.
    """
    tensor = tensorfiles.read(place)
    if format == "hf" and (heads := turned_heads(native, config)):
        tensor = to_interleaved(tensor, heads)
    tensor = tensor.to(device, dtype)
    finite = _finite(tensor)
    tick(place.nbytes)
    return tensor, finite


def _read(stored: dict[str, Stored], config, format, device, dtype) -> dict[str, torch.Tensor]:
    from tqdm.auto import tqdm

    weights, broken = {}, []
    total = sum(place.nbytes for place in stored.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="loading", disable=total < LARGE, leave=False) as bar:
        for native, place in stored.items():
            tensor, finite = read_tensor(native, place, config, format, device, dtype, bar.update)
            weights[native] = tensor.clone() if total < LARGE else tensor  # small: what becomes of the file is no matter
            broken += [] if finite else [place.name]
    if broken:
        warnings.warn(f"NaN or infinity is in {_some(broken)} of {place.file.parent}: expect no sense.", stacklevel=3)
    return weights


def _finite(tensor) -> bool:
    """Are all numbers finite? Their sum says so at the speed of memory; only where it is not are they looked at one by one."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _load_tokenizer(folder: Path, config: MistralConfig) -> Tokenizer | None:
    path = next((folder / name for name in TOKENIZERS if (folder / name).is_file()), None)
    if path is None:
        return None
    tokenizer = Tokenizer(path)
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{path} has {tokenizer.vocab_size} ids and the model has {config.vocab_size}: they do not belong together."
        )
    return tokenizer


def _check_heads(folder, config):
    """Heads regrouped to the same product leave every shape as it is: only the released layouts tell them apart."""
    def widths(c):
        return c.dim, c.hidden_dim, c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim

    for version, known in counting.VERSIONS.items():
        if widths(config) == widths(known) and config.head_dim != known.head_dim:
            raise CheckpointError(
                f"The config in {folder} has {config.n_heads} heads of {config.head_dim}; a model of these widths is Mistral 7B "
                f"{version}, with {known.n_heads} of {known.head_dim} (and {known.n_kv_heads} key heads): mend the config."
            )


def _check_depth(folder, config, found):
    layers = {int(match.group(1)) for name in found if (match := re.search(r"layers\.(\d+)\.", name))}
    depth = max(layers, default=-1) + 1
    if depth != config.n_layers:
        raise CheckpointError(
            f"The weights in {folder} have {depth} layers and the config says n_layers = {config.n_layers}: mend the config."
        )


def _check_index(path, found, size):
    places, total = read_index(path)
    for name, file in places.items():
        if name not in found or found[name].file.name != file:
            where = f"it is in {found[name].file.name}" if name in found else "no file holds it"
            raise CheckpointError(f"{path} says that {name} is in {file}, and {where}: download the folder again.")
    skipped = sum(place.nbytes for place in found.values() if place.name.endswith("inv_freq") and place.dtype in DTYPES.values())
    if total not in (None, size, size + skipped):
        raise CheckpointError(f"{path} promises {total} bytes of tensors and the files hold {size}: it belongs to other files.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
