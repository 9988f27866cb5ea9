"""The mistakes themselves, each as short as it can be and still the same mistake, in the terms of our own code.

A plant is a function that returns a context manager: while that is open, a piece of the library is replaced by a wrong one.
Several forms of one mistake have names; the first is the one that was shipped, or the plainest.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F

from minimistral import attention, checkpoint, masks, model, rope
from minimistral.cache import RollingBuffer
from minimistral.config import MistralConfig
from minimistral.museum.endings import WritesFirst

PLANTS: dict[int, dict[str, Callable]] = {}


def plant(number: int, name: str = ""):
    """Register a function as the way to plant bug `number`, or one form of it."""
    def keep(function):
        PLANTS.setdefault(number, {})[name] = function
        return function

    return keep


def both(*patches):
    """Several patches as one context manager."""
    stack = ExitStack()
    for one in patches:
        stack.enter_context(one)
    return stack


# --- the window -----------------------------------------------------------------------------------------------------------


@plant(1)
def one_more_in_the_prefill():
    """The first chunk is masked for W + 1 keys; decode has the W of the ring."""
    right = RollingBuffer.begin

    def begin(self, T, lengths):
        step, W = right(self, T, lengths), self.config.sliding_window
        if T > 1 and not step.filled and W:
            step.mask = masks.dense(step.positions, step.positions, W + 1)[:, None]
        return step

    return patch.object(RollingBuffer, "begin", begin)


@plant(2)
def trims_first():
    """All keys but the last W are cut off, and only then does the chunk look: its first queries needed older ones."""
    begin, exchange = RollingBuffer.begin, RollingBuffer.exchange

    def with_mask(self, T, lengths):
        step = begin(self, T, lengths)
        if step.mask is None:
            step.mask = masks.dense(step.positions, step.positions, self.config.sliding_window)[:, None]
        return step

    def trimmed(self, layer, k, v, step):
        keys, values = exchange(self, layer, k, v, step)
        W = self.config.sliding_window or keys.shape[2]
        step.mask = step.mask[..., -W:]
        return keys[:, :, -W:], values[:, :, -W:]

    def attend(q, k, v, mask):  # plain softmax, as there: of an empty row it makes NaN, where PyTorch's kernel makes zeros
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, float("-inf"))
        return scores.softmax(-1) @ v

    return both(
        patch.multiple(RollingBuffer, begin=with_mask, exchange=trimmed), patch("minimistral.model.attend_masked", attend)
    )


@plant(3, "holes")
def writes_first():
    """The whole chunk is written into the ring before anybody looks: keys that its first queries need are gone."""
    return patch.object(RollingBuffer, "begin", WritesFirst.begin)


@plant(3, "future")
def writes_first_and_believes_the_old_positions():
    """The same, and the mask still says what the slots held before: a query looks for the past and meets the future."""
    right = RollingBuffer.exchange

    def exchange(self, layer, k, v, step):
        self._write(self.keys[layer], k, step)
        self._write(self.values[layer], v, step)
        return right(self, layer, k, v, step)

    return patch.object(RollingBuffer, "exchange", exchange)


@plant(4)
def clamps_past_the_bound():
    """Past the last slot the index stays there instead of going round: the newest overwrites the newest."""
    right = RollingBuffer.begin

    def begin(self, T, lengths):
        step = right(self, T, lengths)
        step.slots = step.positions[step.rows, step.columns].clamp(max=self.size - 1)
        return step

    return patch.object(RollingBuffer, "begin", begin)


@plant(5)
def makes_room_too_early():
    """The oldest key is thrown out although one place is still empty, and again at each of the next W - 2 steps: meanwhile a hole
    of zeros counts as a key. (There the list moves up, and the hole with it. Here nobody moves: the oldest becomes the hole.)"""
    right = RollingBuffer.exchange

    def exchange(self, layer, k, v, step):
        if step.write_first and self.window:
            rows, at = step.rows, self.position[step.rows]
            empty = ~self.keys[layer][rows, :, at % self.size].flatten(1).any(dim=1)  # the place that this token takes
            early = empty & (at >= self.size - 1) & (at < 2 * self.size - 2)  # right: at >= self.size, and no place is empty
            for buffer in (self.keys, self.values):
                buffer[layer][rows[early], :, (at[early] + 1) % self.size] = 0
        return right(self, layer, k, v, step)

    return patch.object(RollingBuffer, "exchange", exchange)


@plant(6)
def one_more_without_a_cache():
    """The kernel counts the keys before the query's own: told W, it sees W + 1."""
    right = attention.attend

    def attend(q, k, v, window=None, method="auto"):
        return right(q, k, v, window and window + 1, method)

    return patch("minimistral.model.attend", attend)


@plant(7)
def no_window():
    """This road to the kernel has forgotten the window."""
    right = attention.attend

    def attend(q, k, v, window=None, method="auto"):
        return right(q, k, v, None, method)

    return patch("minimistral.model.attend", attend)


@plant(8)
def decode_without_window():
    """A single token comes after everything stored, so it is shown all of it: causal, and the window is forgotten."""
    right = RollingBuffer.begin

    def begin(self, T, lengths):
        step = right(self, T, lengths)
        if T == 1:
            slots = torch.arange(step.mask.shape[-1])
            step.mask = (self.held(slots, (self.position + lengths)[:, None], self.size) >= 0)[:, None, None]
        return step

    return patch.object(RollingBuffer, "begin", begin)


@plant(9)
def a_mask_is_not_a_buffer():
    """The window is in the mask alone: the cache keeps every key that it will never show to anybody again."""
    right = RollingBuffer.__init__

    def init(self, config, batch_size=1, device=None, dtype=None, window="config"):
        right(self, config, batch_size, device, dtype, window=None)

    return patch.object(RollingBuffer, "__init__", init)


@plant(10)
def one_more_in_every_mask():
    """The mask means W tokens before this one, and so W + 1 keys; the cache holds W."""
    right = masks.visible

    def visible(i, j, window=None):
        return right(i, j, window and window + 1)

    return both(
        patch("minimistral.masks.visible", visible),
        patch("minimistral.model.attend", partial(attention.attend, method="dense")),  # with a mask, as there
    )


@plant(11)
def slice_at_one():
    """What the next step may see is cut off with [-W + 1:]. At W = 1 that is [0:]: everything, for ever."""
    right = RollingBuffer.exchange

    def exchange(self, layer, k, v, step):
        keys, values = right(self, layer, k, v, step)
        W, kept = self.config.sliding_window, vars(self).setdefault("kept", {})
        if W is None:
            return keys, values
        old = kept[layer] if step.filled else (k[:, :, :0], v[:, :, :0])
        k, v = torch.cat((old[0], k), dim=2), torch.cat((old[1], v), dim=2)
        kept[layer] = k[:, :, -W + 1 :], v[:, :, -W + 1 :]
        if not step.write_first:
            return keys, values
        step.mask = torch.ones(1, 1, 1, k.shape[2], dtype=torch.bool)  # decode needs no mask: the slice has done its work
        return k, v

    return patch.object(RollingBuffer, "exchange", exchange)


# --- cache and heads ------------------------------------------------------------------------------------------------------


@plant(12, "itself")
def leaves_itself_out():
    """In decode the query looks at what was stored before it, and not at its own key."""
    right = RollingBuffer.begin

    def begin(self, T, lengths):
        step = right(self, T, lengths)
        if T == 1:
            rows = torch.arange(self.batch_size)
            step.mask[rows, 0, 0, self.position % self.size] = False
        return step

    return patch.object(RollingBuffer, "begin", begin)


@plant(12, "closure")
def the_last_one_for_all():
    """Each layer gets a cached version of its attention, made in a loop; all of them mean the loop's last layer."""
    right, plain = model.Mistral.forward, model.Attention.forward

    def forward(self, tokens, cache=None, lengths=None, last_only=False):
        with ExitStack() as patches:
            for layer, block in enumerate(self.layers if cache is not None else ()):

                def cached(x, turn, cache, _, step):
                    return plain(block.attention, x, turn, cache, layer, step)  # noqa: B023 - the bug

                patches.enter_context(patch.object(block.attention, "forward", cached))
            return right(self, tokens, cache, lengths, last_only)

    return patch.object(model.Mistral, "forward", forward)


@plant(13, "unpermuted")
def rows_as_they_lie():
    """Rows of wq and wk from a Hugging Face file are taken as they lie there, in the order of another pairing."""
    return patch("minimistral.checkpoint.to_interleaved", lambda rows, n_heads: rows)


@plant(13, "heads")
def n_heads_for_both():
    """wk is reordered as if it had as many heads as wq."""
    right = checkpoint._read

    def read(stored, config, format, device, dtype):
        return right(stored, replace(config, n_kv_heads=config.n_heads), format, device, dtype)

    return patch("minimistral.checkpoint._read", read)


@plant(14)
def dealt_out():
    """Query head h reads key head h mod n_kv_heads, where h // group was trained."""
    attend, attend_masked = attention.attend, attention.attend_masked

    def tiled(right):
        def wrong(q, k, v, *rest):
            group = q.shape[1] // k.shape[1]
            return right(q, k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1), *rest)

        return wrong

    return patch.multiple("minimistral.model", attend=tiled(attend), attend_masked=tiled(attend_masked))


@plant(15, "future")
def not_causal():
    """Without a cache there is no mask at all: every token sees those that come after it."""
    right = model.Attention.forward

    def forward(self, x, turn, cache, layer, step):
        if cache is not None:
            return right(self, x, turn, cache, layer, step)
        everything = torch.ones(1, 1, x.shape[1], x.shape[1], dtype=torch.bool)
        mixed = model.attend_masked(*self.project(x, turn), everything)
        return self.wo(mixed.transpose(1, 2).flatten(2))

    return patch.object(model.Attention, "forward", forward)


@plant(15, "rows")
def one_long_row():
    """Without a cache all rows of a batch lie behind one another as if they were one text: the second reads the first."""
    right = model.Attention.forward

    def forward(self, x, turn, cache, layer, step):
        if cache is not None:
            return right(self, x, turn, cache, layer, step)
        q, k, v = (heads.transpose(0, 1).flatten(1, 2)[None] for heads in self.project(x, turn))  # (1, heads, B * T, D)
        mixed = model.attend(q, k, v, self.window)[0].transpose(0, 1)  # (B * T, H, D)
        return self.wo(mixed.flatten(1).unflatten(0, x.shape[:2]))

    return patch.object(model.Attention, "forward", forward)


@plant(16, "zeros")
def attends_the_empty_slots():
    """Decode is handed the whole buffer and no mask: slots that nobody has written take part, each with a score of 0."""
    right = RollingBuffer.begin

    def begin(self, T, lengths):
        step = right(self, T, lengths)
        if T == 1:
            step.mask = torch.ones(self.batch_size, 1, 1, self.size, dtype=torch.bool)
        return step

    return patch.object(RollingBuffer, "begin", begin)


@plant(16, "memory")
def trusts_unwritten_memory():
    """The whole buffer again, masked this time; but its memory was never cleared, and 0 times infinity is not 0."""
    right_init, right_begin = RollingBuffer.__init__, RollingBuffer.begin

    def init(self, *args, **options):
        right_init(self, *args, **options)
        self.keys.fill_(float("inf"))  # as torch.empty may leave it
        self.values.fill_(float("inf"))

    def begin(self, T, lengths):
        step = right_begin(self, T, lengths)
        if T == 1:
            step.mask = F.pad(step.mask, (0, self.size - step.mask.shape[-1]), value=False)
        return step

    return patch.multiple(RollingBuffer, __init__=init, begin=begin)


@plant(17)
def angles_in_bfloat16():
    """The angles are calculated in the model's dtype: beyond 256, bfloat16 cannot tell a position from the next."""
    def angles(positions, head_dim, theta):
        turn = positions.unsqueeze(-1).bfloat16() * rope.frequencies(head_dim, theta, positions.device).bfloat16()
        return turn.cos().float(), turn.sin().float()

    return patch("minimistral.rope.angles", angles)


# --- the loader -----------------------------------------------------------------------------------------------------------


@plant(18, "fewer")
def ignores_what_is_left_over():
    """Tensors that the config does not ask for are skipped: a file of 32 layers makes a model of 31."""
    def check_depth(folder, config, found):
        native = checkpoint.expected_shapes(config)
        for name in found.keys() - native.keys() - {checkpoint.hf_name(one) for one in native}:
            del found[name]

    return patch("minimistral.checkpoint._check_depth", check_depth)


@plant(18, "random")
def makes_up_what_is_missing():
    """Tensors that the file lacks are drawn at random, as for training, and the model is handed over."""
    right = checkpoint._read

    def check_depth(folder, config, found):
        for native, shape in checkpoint.expected_shapes(config).items():
            if not {native, checkpoint.hf_name(native)} & found.keys():
                name = native if "norm.weight" in found else checkpoint.hf_name(native)
                found[name] = checkpoint.Stored(None, name, shape, torch.float32)

    def read(stored, config, format, device, dtype):
        weights = right({name: place for name, place in stored.items() if place.file}, config, format, device, dtype)
        torch.manual_seed(0)
        return {name: weights.get(name, torch.randn(place.shape) * 0.02) for name, place in stored.items()}

    return patch.multiple("minimistral.checkpoint", _check_depth=check_depth, _read=read)


@plant(18, "regrouped")
def other_heads_of_the_same_product():
    """Twice as many heads of half the size: n_heads x head_dim is the same, so every tensor still has the right shape."""
    right = MistralConfig.from_file

    def from_file(path):
        config = right(path)
        return replace(config, n_heads=2 * config.n_heads, n_kv_heads=2 * config.n_kv_heads, head_dim=config.head_dim // 2)

    return patch.object(MistralConfig, "from_file", from_file)
