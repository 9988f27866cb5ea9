"""One step of decode, written down once and then replayed without Python: the same operations, the same logits.

It is possible because a step is always of the same shapes: one token a row, and a ring of slots that never grows.
generation.decode() goes over to it where a text becomes long, and reads as well without it.
"""

import copy
import warnings
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

from minimistral import masks
from minimistral.cache import RollingBuffer, Step
from minimistral.model import Mistral

#: with at least so many steps to come; with so many on CUDA the graph's kernels are compiled too
WORTH_A_GRAPH, WORTH_COMPILING = 48, 1000


def captured(model: Mistral, cache: RollingBuffer, left: int) -> Callable[[Tensor], Tensor] | None:
    """capture() for `left` more steps, where that is possible and they are worth it; else None.

    Not for a cache of another kind, nor for a model with hooks: there somebody has changed a step, or wants to see each.
    """
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    if left < WORTH_A_GRAPH or hooked or type(cache) is not RollingBuffer or cache.position.device.type not in ("cpu", "cuda"):
        return None
    tokens = int(cache.position.max()) + left
    for compiled in [True, False] if cache.position.is_cuda and left >= WORTH_COMPILING else [False]:
        try:
            return capture(model, cache, tokens, compiled)
        except Exception as error:  # a build without the compiler, or without the tracer: slower is better than not at all
            warnings.warn(f"decode goes on without a {'compiled ' * compiled}graph: {type(error).__name__}.", stacklevel=2)
    return None


def capture(model: Mistral, cache: RollingBuffer, tokens: int, compiled: bool = False) -> Callable[[Tensor], Tensor]:
    """A function that decodes one token a row, ids (B,) -> logits (B, V), and moves the cache on.

    tokens    how long a row may become in all, its prompt included
    compiled  torch.compile makes the kernels first (a minute or more for 32 layers)

    On CUDA it is a CUDA graph, and the logits are overwritten by the next step. On a CPU it is a trace of the operations, which
    takes a quarter of a second and saves what Python costs between them. Weights may be changed in place, not replaced.

    Raises ValueError for a cache of another kind.
    """
    if not isinstance(cache, RollingBuffer):
        raise ValueError(
            f"cache is a {type(cache).__name__}: a step can be captured with a RollingBuffer only; "
            "decode by calling the model, as generate() does then."
        )
    ring = FixedRing(cache, tokens, unmasked=cache.position.is_cuda)  # its fastest kernels take no mask
    shared = {id(p): torch.nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    twin = copy.deepcopy(model, shared)  # the same weights in memory; a trace takes none that want a gradient
    everyone = torch.ones_like(cache.position)

    def step(ids):
        return twin.unchecked(ids[:, None], ring, everyone)[:, -1]

    replay = _graph(step, cache, compiled) if cache.position.is_cuda else _trace(step, cache)

    def run(ids):
        cache.filled = min(cache.filled + 1, cache.size)
        return replay(ids)

    return run


class FixedRing:
    """A RollingBuffer as Mistral.unchecked() may use it for single tokens, in shapes that are the same at every step.

    It shows as many slots as a row of `tokens` tokens in all will fill, the empty ones masked; and, unmasked=True, no mask at
    all if every row fills the ring with its next token, for then there is nothing to hide.
    """

    def __init__(self, cache: RollingBuffer, tokens: int, unmasked: bool = False):
        if cache.window is None:
            cache._grow(tokens)
        full = cache.size == cache.config.sliding_window and cache.position.min().item() >= cache.size - 1
        self.cache, self.masked = cache, not (unmasked and full)
        self.shown = torch.arange(min(tokens, cache.size), device=cache.position.device)
        self.rows = torch.arange(cache.batch_size, device=cache.position.device)

    def begin(self, T: int, lengths: Tensor) -> Step:
        cache, mask = self.cache, None
        positions = cache.position[:, None]
        if self.masked:
            there = cache.held(self.shown, positions + 1, cache.size)
            mask = ((there >= 0) & masks.visible(positions, there, cache.config.sliding_window))[:, None, None]
        return Step(positions, lengths, mask, write_first=True, rows=self.rows, columns=torch.zeros_like(self.rows),
                    slots=cache.position % cache.size, filled=cache.filled)  # fmt: skip

    def exchange(self, layer: int, k: Tensor, v: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        for buffer, new in ((keys, k), (values, v)):
            if len(buffer) == 1:  # the same for one row, and several times as fast
                buffer.index_copy_(2, step.slots, new)
            else:
                buffer[step.rows, :, step.slots] = new[:, :, 0]
        return keys[:, :, : len(self.shown)], values[:, :, : len(self.shown)]

    def finish(self, step: Step):
        self.cache.position += step.lengths


@contextmanager
def _rehearsal(cache: RollingBuffer):
    """A step run inside will not have been: of a single token only its slot is left, which is written again."""
    position = cache.position.clone()
    try:
        yield
    finally:
        cache.position.copy_(position)


def _trace(step, cache):
    inputs = torch.zeros_like(cache.position), cache.keys, cache.values, cache.position  # what changes from step to step

    def quickly():  # without rounds of optimisation, which would cost more than they bring
        return torch.jit.optimized_execution(False)

    with warnings.catch_warnings(), quickly(), _rehearsal(cache):
        warnings.simplefilter("ignore")  # sizes become constants, as they should; and what may replace torch.jit one day
        graph = torch.jit.trace(lambda ids, *_: step(ids), inputs, check_trace=False)

    def replay(ids):
        with quickly():
            return graph(ids, *inputs[1:])

    return replay


def _graph(step, cache, compiled):
    if compiled:
        step = torch.compile(step, fullgraph=True, dynamic=False)
    ids = torch.zeros_like(cache.position)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what a first call sets up must not become part of the graph
        for _ in range(3):
            with _rehearsal(cache):
                step(ids)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with _rehearsal(cache), torch.cuda.graph(graph):
        logits = step(ids)

    def replay(new):
        ids.copy_(new)
        graph.replay()
        return logits

    return replay
