"""Chapter 00's puzzle: one story told on through two caches.

Do not read on before chapter 06 if you want to find the broken ending yourself.
"""

import html

import torch

from minimistral import masks
from minimistral.cache import RollingBuffer
from minimistral.generation import choose, prefill
from minimistral.model import Mistral
from minimistral.tokenizer import Tokenizer

right_begin = RollingBuffer.begin


class WritesFirst(RollingBuffer):
    """A rolling buffer that writes a whole chunk into its ring and only then attends (litgpt #2182).

    The chunk's last tokens overwrite keys that its first queries can still see, so those queries answer from a hole.
    Nothing fails: for single tokens writing first is right, and a prompt that fits in the ring loses nothing.
    """

    def begin(self, T, lengths):
        step = right_begin(self, T, lengths)
        slots = torch.arange(min(step.filled + T, self.size))
        there = self.held(slots, (self.position + lengths)[:, None], self.size)
        step.mask = ((there >= 0)[:, None] & masks.dense(step.positions, there, self.config.sliding_window))[:, None]
        step.write_first = True
        return step


STORY = (
    "It had rained all week, and it was raining still. Hugo and Sam were in the kitchen, and they had plenty of time. There was "
    "to be a big supper that evening. Now they had to call the others in time. Grandma had gone to the river, and Aunt Flora had "
    "gone to the forest. They laid the table with the best plates. There was still time, so they ran to the garden. \"Listen to "
    "my stomach,\" said Hugo. It growled, and Sam laughed. After a while they came home again. \"Now for Grandma,\" said Hugo, "
    "and they hurried to the river. \"Supper is ready!\" Sam called, and Grandma came at once. \"And Aunt Flora?\" asked Sam."
)
CHUNK = 48  # tokens of the prompt fed at once: they fit in the ring of 64, but not beside what it holds


class TwoEndings:
    """The puzzle of chapter 00: one story, one model, two caches. Which ending is from the broken one is not said."""

    def __init__(self, a: str, b: str):
        self.a, self.b = a, b

    def __repr__(self):
        return f"{STORY} ...\n\nA: {self.a}\n\nB: {self.b}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        def box(name, text):
            return (
                "<div style='flex:1 1 20em;border:1px solid #8886;border-radius:6px;padding:8px 14px;margin:4px'>"
                f"<b>{name}</b><p style='line-height:1.5;margin:6px 0'>{html.escape(text)}</p></div>"
            )

        told = f"<p style='line-height:1.5;max-width:62em'>{html.escape(STORY)} …</p>"
        boxes = f"<div style='display:flex;flex-wrap:wrap;max-width:62em'>{box('A', self.a)}{box('B', self.b)}</div>"
        return {"text/html": told + boxes, "text/plain": repr(self)}


def two_endings() -> TwoEndings:
    """Continue STORY with the small model through the right cache and through the broken one."""
    from minimistral import load_tiny

    model, tokenizer = load_tiny()
    kinds = (WritesFirst, RollingBuffer)
    return TwoEndings(*(ending(model, tokenizer, STORY, kind, CHUNK).strip() for kind in kinds))


def ending(model: Mistral, tokenizer: Tokenizer, story: str, kind: type[RollingBuffer], chunk_size: int, n: int = 60) -> str:
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
