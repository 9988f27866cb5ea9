"""The exam of chapter 13: six caches, some right and some not. If you have not sat it yet, read no further: below they lie open.

Each does what RollingBuffer does, in its own way: begin() a chunk, exchange() keys and values layer by layer, finish() it.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from minimistral import masks
from minimistral.cache import RollingBuffer
from minimistral.config import MistralConfig
from minimistral.model import Mistral


@dataclass
class Chunk:
    """What the layers need to know of one chunk: positions (B, T), lengths (B,), mask (B, 1, T, S)."""

    positions: Tensor
    lengths: Tensor
    mask: Tensor | None = None
    order: Tensor | None = None


class Candidate:
    """What all six share: keys and values (n_layers, B, Hkv, size, D), and each row's position."""

    spare = 0  # seats beyond the window

    def __init__(self, config: MistralConfig, batch_size: int = 1, device=None, dtype=None, window="config"):
        if config.sliding_window is None or window not in ("config", config.sliding_window):
            raise ValueError("The caches of the exam are for models with a window, and hold just that; leave `window` out.")
        self.config, self.batch_size, self.window = config, batch_size, config.sliding_window
        self.size = self.window + self.spare
        shape = (config.n_layers, batch_size, config.n_kv_heads, self.size, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype or torch.get_default_dtype())
        self.values = torch.zeros_like(self.keys)
        self.position = torch.zeros(batch_size, dtype=torch.int64, device=device)

    def reset(self):
        for tensor in (self.keys, self.values, self.position):
            tensor.zero_()

    def n_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def begin(self, T: int, lengths: Tensor) -> Chunk:
        return Chunk(self.position[:, None] + torch.arange(T), lengths)

    def exchange(self, layer: int, k: Tensor, v: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def finish(self, chunk: Chunk):
        self.position += chunk.lengths

    # --- for those that are rings ---

    @staticmethod
    def keepers(T: int, lengths: Tensor, size: int) -> Tensor:
        """Which tokens of a padded chunk are stored: (B, T) bool."""
        columns = torch.arange(T)
        return (columns < lengths[:, None]) & (columns >= lengths[:, None] - size)

    def write(self, layer: int, k: Tensor, v: Tensor, chunk: Chunk):
        rows, columns = self.keepers(k.shape[2], chunk.lengths, self.size).nonzero(as_tuple=True)
        slots = chunk.positions[rows, columns] % self.size
        self.keys[layer][rows, :, slots] = k[rows, :, columns]
        self.values[layer][rows, :, slots] = v[rows, :, columns]

    def stored(self) -> Tensor:
        """The position that each slot holds: (B, size); negative: none yet."""
        return RollingBuffer.held(torch.arange(self.size), self.position[:, None], self.size)

    def behind(self, held: Tensor, positions: Tensor) -> Tensor:
        """The mask for what is stored with a chunk behind it: (B, 1, T, size + T)."""
        old = (held >= 0)[:, None] & masks.dense(positions, held, self.window)
        return torch.cat((old, masks.dense(positions, positions, self.window)), dim=-1)[:, None]


class A(Candidate):
    """A ring. A chunk finds the stored keys in order of age, oldest first, and itself behind them."""

    def begin(self, T, lengths):
        chunk = super().begin(T, lengths)
        slots = torch.arange(self.size)
        if T == 1:  # written first; for one query the order does not matter
            held = RollingBuffer.held(slots, (self.position + lengths)[:, None], self.size)
            chunk.mask = ((held >= 0) & masks.visible(chunk.positions, held, self.window))[:, None, None]
        else:
            oldest = torch.where(self.position > self.size, self.position, 0)
            chunk.order = (oldest[:, None] + slots) % self.size
            chunk.mask = self.behind(self.stored(), chunk.positions)
        return chunk

    def exchange(self, layer, k, v, chunk):
        if chunk.order is None:
            self.write(layer, k, v, chunk)
            return self.keys[layer], self.values[layer]
        seen = self.by_age(self.keys[layer], k, chunk), self.by_age(self.values[layer], v, chunk)
        columns = chunk.order[:, None, None].expand(-1, -1, k.shape[2], -1)
        chunk.mask[..., : self.size] = chunk.mask[..., : self.size].gather(-1, columns)
        self.write(layer, k, v, chunk)
        return seen

    def by_age(self, ring, new, chunk):
        return torch.cat((ring.gather(2, chunk.order[:, None, :, None].expand_as(ring)), new), dim=2)


class B(Candidate):
    """A list that ends with the newest token: the last place is the last position. What is too old falls off in front."""

    def begin(self, T, lengths):
        chunk = super().begin(T, lengths)
        held = self.position[:, None] - self.size + torch.arange(self.size)
        chunk.mask = self.behind(held, chunk.positions)
        return chunk

    def exchange(self, layer, k, v, chunk):
        return self.push(self.keys[layer], k, chunk), self.push(self.values[layer], v, chunk)

    def push(self, kept, new, chunk):
        whole = torch.cat((kept, new), dim=2)
        last = chunk.lengths[:, None] + torch.arange(self.size)  # a row of n real tokens moves on by n places
        kept.copy_(whole.gather(2, last[:, None, :, None].expand_as(kept)))
        return whole


class C(Candidate):
    """A list that begins with the oldest token. While there is room a token is put at the end; then the list moves up."""

    def begin(self, T, lengths):
        chunk = super().begin(T, lengths)
        places = torch.arange(self.size)
        if T == 1:
            chunk.mask = (places <= self.position[:, None])[:, None, None]
        else:
            held = (self.position[:, None] - self.size).clamp(min=0) + places
            chunk.mask = self.behind(torch.where(held < self.position[:, None], held, -1), chunk.positions)
        return chunk

    def exchange(self, layer, k, v, chunk):
        seen = torch.cat((self.keys[layer], k), dim=2), torch.cat((self.values[layer], v), dim=2)
        for row, n in enumerate(chunk.lengths.tolist()):
            for t in range(n):
                at = self.position[row].item() + t
                self.keys[layer][row] = self.append(self.keys[layer][row], k[row, :, t], at)
                self.values[layer][row] = self.append(self.values[layer][row], v[row, :, t], at)
        return (self.keys[layer], self.values[layer]) if k.shape[2] == 1 else seen

    @staticmethod
    def append(kept: Tensor, new: Tensor, position: int) -> Tensor:
        """kept (Hkv, size, D), oldest first; new (Hkv, D), the token at `position` -> the list with it in its place."""
        size = kept.shape[1]
        kept = kept.roll(-1, dims=1) if position >= size - 1 else kept.clone()
        kept[:, min(position, size - 1)] = new
        return kept


class D(Candidate):
    """A ring with some seats more than the window. All of it is handed out with the chunk behind; the mask decides."""

    spare = 3

    def begin(self, T, lengths):
        chunk = super().begin(T, lengths)
        chunk.mask = self.behind(self.stored(), chunk.positions)
        return chunk

    def exchange(self, layer, k, v, chunk):
        seen = torch.cat((self.keys[layer], k), dim=2), torch.cat((self.values[layer], v), dim=2)
        self.write(layer, k, v, chunk)
        return seen


class E(Candidate):
    """A ring that thinks in ages: how many steps before the query was this key made? From 0 to W - 1 it is seen."""

    def begin(self, T, lengths):
        chunk = super().begin(T, lengths)
        made = torch.cat((self.stored(), chunk.positions), dim=1)
        age = chunk.positions[:, :, None] - made[:, None]
        chunk.mask = ((age >= 0) & (age < self.window) & (made >= 0)[:, None])[:, None]
        return chunk

    def exchange(self, layer, k, v, chunk):
        keys, values = self.keys[layer].clone(), self.values[layer].clone()
        self.write(layer, k, v, chunk)
        return torch.cat((keys, k), dim=2), torch.cat((values, v), dim=2)

    @staticmethod
    def keepers(T, lengths, size):
        columns = torch.arange(T).expand(len(lengths), T)
        return (columns < lengths[:, None]) & (columns >= T - size)


class F(Candidate):
    """A ring with a book: which position sits in which slot is written down, not worked out."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.book = torch.full((self.batch_size, self.size), -1)

    def begin(self, T, lengths):
        chunk = super().begin(T, lengths)
        chunk.mask = self.behind(self.book, chunk.positions)
        return chunk

    def exchange(self, layer, k, v, chunk):
        seen = torch.cat((self.keys[layer], k), dim=2), torch.cat((self.values[layer], v), dim=2)
        self.write(layer, k, v, chunk)
        return seen

    def finish(self, chunk):
        rows, columns = self.keepers(chunk.positions.shape[1], chunk.lengths, self.size).nonzero(as_tuple=True)
        taken = chunk.positions[rows, columns]
        self.book[rows, taken % self.size] = taken
        super().finish(chunk)


CACHES = {kind.__name__: kind for kind in (A, B, C, D, E, F)}


def mended(append=None, keepers=None) -> dict[str, type[Candidate]]:
    """The six again, with these functions in the place of their own."""
    def better(kind):
        if append and "append" in vars(kind):
            return type(kind.__name__, (kind,), {"append": staticmethod(append)})
        if keepers and "keepers" in vars(kind):
            return type(kind.__name__, (kind,), {"keepers": staticmethod(keepers)})
        return kind

    return {letter: better(kind) for letter, kind in CACHES.items()}


# --- trying one -----------------------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """How one cache did in one trial; true if its logits were those of the model without a cache."""

    tokens: int  # real ones, all rows together
    difference: float  # the largest of any logit
    rows: int = 1
    row: int | None = None  # the first place that differs
    position: int | None = None

    def __bool__(self):
        return self.position is None

    def __repr__(self):
        tokens = f"{self.tokens} token" + "s" * (self.tokens > 1)
        if self:
            return f"right: {tokens}, all logits as without a cache"
        where = f"position {self.position}" + (f" of row {self.row}" if self.rows > 1 else "")
        return f"parts: {tokens}, first at {where}, by up to {self.difference:.2g}"


@torch.no_grad()
def trial(kind, window: int = 4, chunks=(5, 1, 1), again: bool = False, layers: int = 2) -> Trial:
    """Feed a random sequence to a cache in these chunks and hold each logit against the model without a cache.

    kind    a letter of the exam, or any class with RollingBuffer's methods
    chunks  for each chunk a number of tokens; or a list, a number for each row of a batch: [3, 1] is a chunk of 3 in which
            the second row has 1 token and padding
    again   the same cache is used before for another sequence in the same chunks, and reset() in between
    """
    if isinstance(kind, str) and kind not in CACHES:
        raise ValueError(f"no cache of the exam is called {kind!r}; there are {', '.join(CACHES)}.")
    kind = CACHES[kind] if isinstance(kind, str) else kind
    chunks = _checked(chunks)
    model = random_model(window, layers)
    cache = kind(model.config, batch_size=len(chunks[0]))
    if again:
        _feed(model, cache, chunks, seed=1)
        cache.reset()
    texts, logits = _feed(model, cache, chunks, seed=2)
    result = Trial(sum(map(len, texts)), 0.0, len(texts))
    for row, (text, got) in enumerate(zip(texts, logits, strict=True)):
        if not text:
            continue
        off = (torch.cat(got) - model(torch.tensor([text]))[0]).abs().nan_to_num(float("inf")).amax(-1)
        result.difference = max(result.difference, off.max().item())
        if (wrong := (off > 1e-4).nonzero().flatten().tolist()) and result.position is None:
            result.row, result.position = row, wrong[0]
    return result


def _checked(chunks) -> list[list[int]]:
    """For each chunk its lengths, a number a row."""
    try:
        rows = max((len(chunk) for chunk in chunks if isinstance(chunk, list | tuple)), default=1)
        lengths = [list(chunk) if isinstance(chunk, list | tuple) else [chunk] * rows for chunk in chunks]
    except TypeError:
        lengths = []
    fits = lengths and all(
        len(chunk) == rows and all(type(n) is int and n >= 0 for n in chunk) and max(chunk, default=0) > 0 for chunk in lengths
    )
    if not fits or sum(map(sum, lengths)) > 2000:
        raise ValueError(f"chunks is {chunks!r}: expected a list of whole numbers above 0, or of lists of them, a number a row; "
                         "at most 2,000 tokens in all.")
    return lengths


@lru_cache(maxsize=64)
def random_model(window: int, layers: int) -> Mistral:
    """A small model with random weights, so large that a wrong key, order or angle shows in every logit."""
    config = MistralConfig(dim=16, n_layers=layers, n_heads=4, n_kv_heads=2, head_dim=4, hidden_dim=20, vocab_size=32,
                           rope_theta=100.0, sliding_window=window)  # fmt: skip
    model = Mistral(config).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model


def _feed(model, cache, chunks, seed):
    """-> for each row its ids, and its logits chunk by chunk."""
    generator = torch.Generator().manual_seed(seed)
    texts, logits = [[] for _ in chunks[0]], [[] for _ in chunks[0]]
    for lengths in chunks:
        ids = torch.randint(model.config.vocab_size, (len(lengths), max(lengths)), generator=generator)
        out = model(ids, cache=cache, lengths=torch.tensor(lengths))
        for row, n in enumerate(lengths):
            texts[row] += ids[row, :n].tolist()
            logits[row].append(out[row, :n])
    return texts, logits
