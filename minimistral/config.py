"""What a model is: ten numbers, named as in Mistral's own params.json."""

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Window = Any  # int | None, or a tuple of these, one for each layer. Which of the two it is, is_mixed says and no type can
#: HF config.json name -> our name (params.json name)
HF_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "hidden_dim",
    "rms_norm_eps": "norm_eps",
    "vocab_size": "vocab_size",
    "rope_theta": "rope_theta",
    "sliding_window": "sliding_window",
}
#: what else transformers writes: read below, or nothing that would change the model
HF_KNOWN = {
    "hidden_act", "layer_types", "model_type", "rope_parameters", "rope_scaling", "tie_word_embeddings",
    "_attn_implementation_autoset", "_name_or_path", "architectures", "attention_dropout", "bos_token_id", "dtype",
    "eos_token_id", "initializer_range", "max_position_embeddings", "pad_token_id", "torch_dtype", "transformers_version",
    "use_cache",
}  # fmt: skip


class ConfigError(ValueError):
    """A configuration that describes no Mistral model; the message says which field and why."""


@dataclass(frozen=True)
class MistralConfig:
    """The shape of one model. Frozen: a model and its cache can never disagree about it later.

    dim             width of the residual stream
    n_layers        blocks in the stack
    n_heads         query heads (H); n_kv_heads: key and value heads (Hkv); H is a multiple of Hkv
    head_dim        size of one head (D), even, because RoPE turns pairs
    hidden_dim      inner width of the SwiGLU feed-forward
    vocab_size      number of token ids (V)
    norm_eps        added under RMSNorm's root
    rope_theta      base of the rotary frequencies
    sliding_window  W: position i sees i-W+1 ... i, itself counted. None: it sees everything before it. A list gives each
                    layer its own, (4096, None) * 16 say; one that is the same everywhere becomes that one

    Raises ConfigError for numbers no model can have.
    """

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    sliding_window: Window = None

    def __post_init__(self):
        for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size"):
            check_count(name, getattr(self, name))
        object.__setattr__(self, "sliding_window", _one_or_each(self.sliding_window, self.n_layers))
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"n_heads is {self.n_heads} and n_kv_heads is {self.n_kv_heads}: "
                "every key head must serve the same number of query heads, so n_heads must be a multiple."
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim is {self.head_dim}: RoPE turns pairs of numbers, so it must be even.")
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
                raise ConfigError(f"{name} is {value!r}: expected a finite number above 0.")

    @property
    def group(self) -> int:
        """Query heads that share one key head."""
        return self.n_heads // self.n_kv_heads

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Each layer's window."""
        return self.sliding_window if self.is_mixed else (self.sliding_window,) * self.n_layers

    @property
    def is_mixed(self) -> bool:
        """Whether the layers' windows differ."""
        return isinstance(self.sliding_window, tuple)

    @classmethod
    def from_file(cls, path) -> "MistralConfig":
        """Read Mistral's params.json or a Hugging Face config.json (either generation).

        Raises ConfigError naming the file for anything missing, mistyped or of another kind of model, and for a params.json that
        says its windows under another name than sliding_window.
        Warns, saying what it chose, where rope_theta is absent, and names the keys it does not know.
        """
        path = Path(path)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path} does not exist; expected a params.json or a config.json.") from None
        except OSError as error:  # a folder, or no permission
            raise ConfigError(f"{path} cannot be read ({error.strerror}); give the file itself.") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise ConfigError(f"{path} holds a {type(fields).__name__}; expected one JSON object of named fields.")
        try:
            return _from_hf(fields, path) if "hidden_size" in fields else _from_params(fields, path)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def to_params(self) -> dict:
        """The contents of a params.json. rope_theta and sliding_window are always written out."""
        return asdict(self)


def _one_or_each(window, n_layers: int) -> Window:
    """A window for all layers, or a checked tuple with one for each; equal ones become one."""
    if not isinstance(window, list | tuple):
        check_window(window, "sliding_window")
        return window
    if len(window) != n_layers:
        raise ConfigError(f"sliding_window lists {len(window)} windows and n_layers is {n_layers}: expected one for each layer.")
    for layer, each in enumerate(window):
        check_window(each, f"sliding_window[{layer}]")
    return window[0] if len(set(window)) == 1 else tuple(window)


def check_window(window, name: str = "window"):
    """Refuse a window that is neither None nor a whole number of at least 1."""
    if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 1):
        raise ConfigError(
            f"{name} is {window!r}: expected a whole number of at least 1 (1 sees only itself), or None for no window."
        )


def check_count(name: str, value, least: int = 1):
    """Refuse anything but a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} is {value!r}: expected a whole number of at least {least}.")


def _from_params(fields: dict, path: Path) -> MistralConfig:
    known = {name: fields[name] for name in MistralConfig.__dataclass_fields__ if name in fields}
    _require_present(known)
    unknown = set(fields) - set(known)
    for name in sorted(name for name in unknown if "window" in name):  # such as _sliding_window: left out, it is another model
        raise ConfigError(
            f"{name} is {fields[name]!r}, which is not read: state sliding_window instead, a whole number, null for no window, "
            "or a list with one of these for each layer."
        )
    _name_unknown(path, unknown)
    if "rope_theta" not in known:
        # Mistral's own rule: 7B v0.1 came without the key (and with a window); later models without a window mean 1e6.
        window = known.get("sliding_window")
        windowed = any(window) if isinstance(window, list) else window  # a list of nothing but null is no window
        known["rope_theta"] = 1e4 if windowed else 1e6
        _say_theta(path, known["rope_theta"], "a window" if windowed else "no window")
    return MistralConfig(**known)


def _from_hf(fields: dict, path: Path) -> MistralConfig:
    if fields.get("model_type", "mistral") not in ("mistral", "ministral"):
        raise ConfigError(f"model_type is {fields['model_type']!r}; this library runs 'mistral' and 'ministral' models only.")
    known = {ours: fields[theirs] for theirs, ours in HF_NAMES.items() if theirs in fields}
    _name_unknown(path, fields.keys() - HF_NAMES.keys() - HF_KNOWN)
    if fields.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"hidden_act is {fields['hidden_act']!r}; Mistral's feed-forward uses 'silu'.")
    rope = fields.get("rope_parameters") or {}  # transformers 5 moved the base here
    if not isinstance(rope, dict):
        raise ConfigError(f"rope_parameters is {rope!r}; expected an object with rope_theta in it.")
    if rope.get("rope_type", "default") != "default" or fields.get("rope_scaling"):
        raise ConfigError("asks for scaled rotary positions; released Mistral 7B models use none.")
    if "rope_theta" in rope:
        known["rope_theta"] = rope["rope_theta"]
    known.setdefault("n_kv_heads", 8)  # what an absent key means to the HF class; null meant: as many as n_heads
    if known["n_kv_heads"] is None and "n_heads" in known:
        known["n_kv_heads"] = known["n_heads"]
    if known.get("head_dim") is None:  # often absent, sometimes null
        _require_present(known | {"head_dim": None})
        for name in ("dim", "n_heads"):
            check_count(name, known[name])
        known["head_dim"] = known["dim"] // known["n_heads"]
    _require_present(known)
    known.setdefault("norm_eps", 1e-6)  # what an absent key means to the HF class
    known.setdefault("sliding_window", 4096)  # the same: absent is 4096, null is none
    if fields.get("layer_types") is not None:
        known["sliding_window"] = _by_type(fields["layer_types"], known["sliding_window"])
    if "rope_theta" not in known:
        known["rope_theta"] = 1e4
        _say_theta(path, 1e4, "the Hugging Face default")
    if fields.get("tie_word_embeddings"):
        raise ConfigError("tie_word_embeddings is true; Mistral 7B has separate input and output embeddings.")
    return MistralConfig(**known)


def _by_type(types, window) -> list:
    """Hugging Face's layer_types, a name for each layer, as windows."""
    means = {"sliding_attention": window, "full_attention": None}
    names = types if isinstance(types, list) else []
    strange = [name for name in names if name not in list(means)]
    if strange or not names:
        raise ConfigError(f"layer_types has {(strange or [types])[0]!r}; expected a list of {' and '.join(map(repr, means))}.")
    if window is None and "sliding_attention" in types:
        raise ConfigError("layer_types has 'sliding_attention' and sliding_window is null: how wide is the window?")
    return [means[name] for name in types]


def _require_present(known: dict):
    needed = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size")
    if missing := [name for name in needed if name not in known]:
        theirs = {ours: hf for hf, ours in HF_NAMES.items()}
        named = ", ".join(f"{name} (in config.json: {theirs[name]})" for name in missing)
        raise ConfigError(f"lacks {named}.")


def _say_theta(path, theta, because):
    warnings.warn(f"{path} has no rope_theta: took {theta:g} ({because}).", stacklevel=4)


def _name_unknown(path, names):
    if names:
        warnings.warn(f"{path}: ignored unknown keys {', '.join(sorted(names))}.", stacklevel=4)
