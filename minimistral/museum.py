"""Bugs that real code shipped, small enough to read, each planted where ours is right.

Do not read on before chapter 06 if you want to find the broken ending of chapter 00 yourself.
"""

import html

import torch

from minimistral import masks
from minimistral.cache import RollingBuffer
from minimistral.generation import choose, prefill


class WritesFirst(RollingBuffer):
    """A rolling buffer that writes a whole chunk into its ring and only then attends (litgpt #2182).

    The chunk's last tokens overwrite keys that its first queries can still see, so those queries answer from a hole.
    Nothing fails: for single tokens writing first is right, and a prompt that fits in the ring loses nothing.
    """

    def begin(self, T, lengths):
        step = super().begin(T, lengths)
        slots = torch.arange(min(step.filled + T, self.size))
        there = self.held(slots, (self.position + lengths)[:, None], self.size)
        step.mask = ((there >= 0)[:, None] & masks.dense(step.positions, there, self.config.sliding_window))[:, None]
        step.write_first = True
        return step


STORY = ""  # set when the tiny model was made: a story whose end depends on its beginning
SWAPPED = False


def ending(model, tokenizer, story: str, kind: type[RollingBuffer], chunk_size: int, n: int = 60) -> str:
    """Continue a story greedily through one kind of cache, up to n tokens or the story's end."""
    cache = kind(model.config)
    ids, new = tokenizer.encode(story, bos=True), []
    with torch.no_grad():
        logits = prefill(model, [ids], cache, chunk_size)
        while len(new) < n:
            new.append(choose(logits).item())
            if new[-1] == tokenizer.eos_id:
                break
            logits = model(torch.tensor([new[-1:]]), cache=cache)[:, -1]
    return tokenizer.decode(ids + new)[len(tokenizer.decode(ids)) :]
