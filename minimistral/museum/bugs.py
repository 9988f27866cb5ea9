"""The eighteen bugs: whose they were, what one notices, and how to plant them here. The mistakes themselves: plants.py."""

import inspect
import re
import textwrap
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from minimistral.museum.plants import PLANTS

#: how a project is called here -> where it lies
HOMES = {
    "mistral-inference": "mistralai/mistral-inference",
    "LLMs-from-scratch": "rasbt/LLMs-from-scratch",
    "litgpt": "Lightning-AI/litgpt",
    "transformers": "huggingface/transformers",
    "nanochat": "karpathy/nanochat",
    "mlx-lm": "ml-explore/mlx-lm",
    "TinyTorch": "harvard-edge/cs249r_book",
    "llama2.c": "karpathy/llama2.c",
    "ONNX": "onnx/onnx",
    "axlearn": "apple/axlearn",
    "gpt-fast": "meta-pytorch/gpt-fast",
}
#: files, in the version that has the bug
FILES = {
    "one_file_ref.py": "215fc80d4a00177854b51a93fd3d455094f0e085/one_file_ref.py",
    "transformer_layers.py": "510f7ae8e81c164a02cf2d18513588be67138b31/src/mistral_inference/transformer_layers.py",
    "cache_utils.py": "v5.23.0/src/transformers/cache_utils.py",
}


@dataclass(frozen=True)
class Bug:
    """One bug that shipped, and how to plant it into this library."""

    number: int
    title: str
    where: tuple[str, ...]  # project and, where there is one, issue or pull request: "litgpt #2182"
    chapter: int  # of its idea
    noticed: str  # what one notices
    wrong: str  # what is wrong

    @property
    def projects(self) -> list[tuple[str, str | None]]:
        """(name, link) of each report, or of the code itself."""
        return [(name, _link(name)) for name in self.where]

    @property
    def plants(self) -> dict[str, Callable]:
        """Its forms by name, the first of them the one that planted() takes when none is named."""
        return PLANTS[self.number]


def _link(name: str) -> str | None:
    project, _, what = name.partition(" ")
    if project not in HOMES:
        return None
    place = f"issues/{what[1:]}" if what.startswith("#") else f"blob/{FILES[what]}"
    return f"https://github.com/{HOMES[project]}/{place}"


BUGS = {
    bug.number: bug
    for bug in (
        Bug(1, "One key more in the prompt than afterwards", ("mistral-inference one_file_ref.py",), 4,
            "Nothing. The first tokens that are written belong to a slightly other model than the prompt.",
            "The mask of the pre-fill shows W + 1 keys, the buffer of decode holds W: the file disagrees with itself."),
        Bug(2, "Trimmed before anybody looked", ("LLMs-from-scratch #1008", "LLMs-from-scratch #1013"), 6,
            "For a chunk longer than W, NaN. For a shorter one nothing: keys are missing.",
            "The cache is cut to the last W keys before the chunk attends; its first queries still needed older ones."),
        Bug(3, "Written before it was read", ("litgpt #2182",), 6,
            "Nothing: fluent text that misremembers.",
            "A chunk is written into the ring before it attends, over keys that its own first queries need."),
        Bug(4, "Past the bound", ("litgpt #2145", "litgpt #2153"), 5,
            "Nothing for a long while; then gibberish, as soon as the cache has been full for a few tokens.",
            "Beyond its last slot the cache neither goes round nor refuses: tokens are stored where they do not belong."),
        Bug(5, "One step too early", ("transformers #37574",), 5,
            "Nothing. From position W - 1 on, W - 1 queries miss a key and see a hole; then the cache is whole again.",
            "The cache makes room one step before it has to: the oldest key goes, and an empty place counts as a key."),
        Bug(6, "The kernel that counts from one less", ("transformers #39408", "transformers #29220"), 4,
            "Nothing: of 4,097 tokens exactly one logit row differs.",
            "The kernel is told how far back to look, the token itself not counted; W was passed, and W - 1 was meant."),
        Bug(7, "The road without a window", ("transformers #28980", "transformers #29777"), 4,
            "Nothing up to W tokens. Beyond, other text, and more time than expected.",
            "One of several attention paths is never told the window, so it is plain causal attention."),
        Bug(8, "Decode without a window", ("nanochat #452",), 4,
            "Nothing, as long as the cache holds no more than the window.",
            "A single token is given no mask, because all stored keys lie before it; some lie too far before it."),
        Bug(9, "A mask saves no memory", ("nanochat #825",), 4,
            "No wrong number anywhere: the memory grows with every token.",
            "The window is in the mask only, and the cache keeps keys that nobody will ever see again."),
        Bug(10, "A mask for one more than the cache holds", ("mlx-lm #390",), 5,
            "Nothing. Chunk size changes the logits a little.",
            "The mask allows W + 1 keys, the cache keeps W: a query's view depends on how the text was cut."),
        Bug(11, "Minus zero", ("transformers cache_utils.py",), 5,
            "Nothing at any window but 1; there the window is gone and the memory grows.",
            "keys[-W + 1:] keeps the last W - 1. For W = 1 that is keys[0:], which is all of them."),
        Bug(12, "A cached version of every layer", ("TinyTorch #1953",), 3,
            "In a model that is not trained yet, nothing, and it is fast. A trained one may say one word for ever.",
            "Each layer's replacement, made in a loop, means the loop's last layer; and a token's own key is left out."),
        Bug(13, "Rows in another order", ("llama2.c #286", "transformers #31788"), 2,
            "No error: a few good words, then they degenerate. A test with one token passes.",
            "Query and key rows of one file format are used, or reordered, as if they were of the other."),
        Bug(14, "Heads dealt out like cards", ("ONNX #7274", "axlearn #842", "LLMs-from-scratch #922"), 3,
            "Nothing: every shape fits, and a higher loss.",
            "Query head h reads key head h mod n_kv_heads; it was trained with h // group."),
        Bug(15, "Without a cache", ("mistral-inference transformer_layers.py",), 1,
            "A model that writes well through its cache scores badly when it is measured without one.",
            "The call without a cache has no mask: tokens see the future, and the rows of a batch see each other."),
        Bug(16, "Seats that were never taken", ("gpt-fast #233",), 6,
            "The same words, mostly, with wrong numbers behind them; or NaN, on some days.",
            "Slots that were never written take part: as zeros they dilute the answer, as raw memory they spoil it."),
        Bug(17, "Angles in half precision", ("transformers #29496", "transformers #29285"), 2,
            "Nothing in short texts. From some hundreds of tokens on the model grows vague about order.",
            "RoPE's angles are calculated in bfloat16, in which the positions 15,999 and 16,000 are one number."),
        Bug(18, "The loader that is never at a loss", ("many loaders",), 10,
            "At best a warning among others. A model answers; it is not the one in the file.",
            "Layers too many are skipped, missing ones are drawn at random, heads are cut to another size."),
    )
}  # fmt: skip


def find(number: int) -> Bug:
    """The bug of that number. Raises ValueError for a number that there is not."""
    if number not in BUGS:
        raise ValueError(f"there is no exhibit {number!r}; they are numbered 1 to {len(BUGS)}.")
    return BUGS[number]


def _plant(number: int, name: str | None) -> Callable:
    plants = find(number).plants
    name = next(iter(plants)) if name is None else name
    if name not in plants:
        raise ValueError(f"exhibit {number} has no form {name!r}; there are {', '.join(map(repr, plants))}.")
    return plants[name]


@contextmanager
def planted(number: int, name: str | None = None):
    """Our own library with this bug in it, while the block runs. name: which form of it, see BUGS[number].plants.

    It reaches whatever is called inside the block, caches made before it too.
    """
    with _plant(number, name)(), patch("minimistral.captured.captured", lambda *_: None):  # a graph has no such pieces
        yield


def source(number: int, name: str | None = None, told: bool = True) -> str:
    """The planted mistake as source, without the line that registers it; told=False: without its name and docstring too."""
    text = textwrap.dedent(inspect.getsource(_plant(number, name))).split("\n", 1)[1].strip()
    return text if told else re.sub(r'^def \w+(.*?)\n    """.*?"""', r"def plant\1", text, count=1, flags=re.DOTALL)


def way(number: int, right: Callable, name: str | None = None) -> Callable:
    """A way for probe.compare: what `right` does, with this bug planted meanwhile."""
    def wrong(model, tokens):
        with planted(number, name):
            return right(model, tokens)

    return wrong
