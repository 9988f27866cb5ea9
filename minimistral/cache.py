"""The rolling buffer: a key-value cache that never holds more than the window (paper, section 2, Figure 2).

Three things are kept apart that are easily mixed up:

    position   where a token stands in its sequence; RoPE turned its key by it before the key came here; never wraps
    slot       where its key and value are stored: position mod W
    real       which tokens of a padded chunk are worth writing

A worked example, W = 4, after seven tokens at positions 0 ... 6: slots 0, 1, 2 were used again by positions 4, 5, 6.

>>> RollingBuffer.held(slots=torch.arange(4), position=7, size=4)
tensor([4, 5, 6, 3])
>>> RollingBuffer.held(slots=torch.arange(4), position=2, size=4)       # two tokens so far; a negative position: empty
tensor([ 0,  1, -2, -1])
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from minimistral import masks
from minimistral.config import MistralConfig, check_count, check_window


@dataclass
class Step:
    """What one chunk needs to know of the cache; worked out once and used by every layer."""

    positions: Tensor  # (B, T): absolute position of each token of the chunk
    lengths: Tensor  # (B,): how many of them are real
    mask: Tensor | None  # (B, 1, T, S): which keys each may see; None: the plain causal window over the chunk
    #                    alone, or, of a single token, all that is handed out
    write_first: bool  # a single token may overwrite the one slot it can no longer see, then attend the buffer in place
    rows: Tensor  # (N,): of each token that is stored, its row ...
    columns: Tensor  # (N,): ... its place in the chunk ...
    slots: Tensor  # (N,): ... and its slot
    filled: int  # slots that have been written in some row, before this chunk


class RollingBuffer:
    """Keys and values of the last W positions, for every layer and for B sequences of different lengths.

    config, batch_size  what it serves; a model with another config, or another batch, is refused
    window              slots to keep. "config": the model's own window. None: a growing cache, which forgets nothing.
                        It changes what is stored, never what a query may see: that is the model's sliding_window
    position            (B,) int64: the position that the next token of each row will take

    A cache serves one generation at a time; reset() makes it empty again. If a forward pass is interrupted in the middle,
    some layers have stored what others have not: the cache notices and refuses to go on until it is reset.
    It is for inference: call the model under torch.no_grad(), or every step adds to one ever longer graph.
    """

    def __init__(self, config: MistralConfig, batch_size: int = 1, device=None, dtype=None, window="config"):
        check_count("batch_size", batch_size)
        if config.is_mixed:
            raise ValueError(f"The layers' windows are {config.windows}; one ring has one: take hybrid.cache_for(config).")
        window = config.sliding_window if window == "config" else window
        check_window(window)
        if window is not None and window < (config.sliding_window or float("inf")):
            raise ValueError(
                f"window is {window} and the model's sliding_window is {config.sliding_window or 'none'}: "
                "so small a buffer would forget keys that are still needed. Leave window out, or give None for a growing cache."
            )
        self.config, self.batch_size, self.window = config, batch_size, window
        self.size = window or 64  # slots; a growing cache doubles this when it has to
        shape = (config.n_layers, batch_size, config.n_kv_heads, self.size, config.head_dim)
        # zeros, not empty: a slot that was never written is masked, but 0 * NaN would still be NaN
        self.keys = torch.zeros(shape, device=device, dtype=dtype or torch.get_default_dtype())
        self.values = torch.zeros_like(self.keys)
        self.position = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.filled = 0  # slots written so far in the longest row; a plain number, so that nobody waits for the device
        self._open = False

    @property
    def parts(self) -> list["RollingBuffer"]:
        """The rings that it is made of: itself. A hybrid.HybridCache has several."""
        return [self]

    def reset(self):
        """Forget everything. The slots are zeroed too: a NaN left in one would reach a query that only masks it."""
        self.keys.zero_()
        self.values.zero_()
        self.position.zero_()
        self.filled = 0
        self._open = False

    def n_bytes(self) -> int:
        """Bytes of keys and values: 2 * n_layers * B * n_kv_heads * slots * head_dim * bytes per number."""
        return self.keys.nbytes + self.values.nbytes

    @staticmethod
    def held(slots: Tensor, position, size: int):
        """The position each slot holds when the next token would be `position`: the latest one that is slot mod size."""
        last = position - 1
        return last - (last - slots) % size

    def begin(self, T: int, lengths: Tensor) -> Step:
        """Open a chunk of T tokens a row, of which lengths (B,) are real. Call finish() when every layer has stored it."""
        if self._open:
            raise ValueError(
                "This cache was left in the middle of an earlier chunk (an error or an interrupt), so its layers do not "
                "agree any more: call cache.reset() and feed the sequence again from its beginning."
            )
        if self.window is None:
            self._grow(self.filled + T)
        W, device = self.config.sliding_window, self.position.device
        columns = torch.arange(T, device=device)
        positions = self.position[:, None] + columns
        # Of a chunk longer than the buffer only the last tokens are stored: no slot is written twice.
        real = columns < lengths[:, None]
        kept = real & (columns >= lengths[:, None] - self.size)
        rows, kept_columns = kept.nonzero(as_tuple=True)
        step = Step(
            positions=positions,
            lengths=lengths,
            mask=None,
            write_first=T == 1,
            rows=rows,
            columns=kept_columns,
            slots=positions[rows, kept_columns] % self.size,
            filled=self.filled,
        )
        if step.write_first:
            slots = torch.arange(min(self.filled + 1, self.size), device=device)
            there = self.held(slots, self.position[:, None] + lengths[:, None], self.size)
            step.mask = ((there >= 0) & masks.visible(positions, there, W))[:, None, None]
        elif self.filled:
            slots = torch.arange(self.filled, device=device)
            before = self.held(slots, self.position[:, None], self.size)
            old = (before >= 0)[:, None] & masks.dense(positions, before, W)
            new = masks.dense(columns, columns, W).expand(self.batch_size, T, T)
            step.mask = torch.cat((old, new), dim=-1)[:, None]
        self._open = True
        return step

    def exchange(self, layer: int, k: Tensor, v: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values (B, Hkv, T, D); return all that its queries need: (B, Hkv, S, D) each.

        A chunk must be answered from what the buffer held *before* it: its first queries still need keys that its last
        tokens overwrite. So the old keys are copied out beside the chunk, S = filled + T, and only then written over.
        """
        keys, values = self.keys[layer], self.values[layer]
        if step.write_first or not step.filled:
            self._write(keys, k, step)
            self._write(values, v, step)
            if not step.write_first:
                return k, v
            S = step.mask.shape[-1]
            return keys[:, :, :S], values[:, :, :S]
        seen = torch.cat((keys[:, :, : step.filled], k), dim=2), torch.cat((values[:, :, : step.filled], v), dim=2)
        self._write(keys, k, step)
        self._write(values, v, step)
        return seen

    def finish(self, step: Step):
        """Close the chunk: every layer has it, so the positions may move on."""
        self.position += step.lengths
        self.filled = min(step.filled + step.positions.shape[1], self.size)
        self._open = False

    @staticmethod
    def _write(buffer: Tensor, new: Tensor, step: Step):
        buffer[step.rows, :, step.slots] = new[step.rows, :, step.columns]

    def _grow(self, needed: int):
        if needed > self.size:
            more = max(needed, 2 * self.size) - self.size
            room = [torch.nn.functional.pad(x, (0, 0, 0, more)) for x in (self.keys, self.values)]
            (self.keys, self.values), self.size = room, self.size + more  # both or neither, should memory run out
