"""From prompts to new ids: pre-fill the cache in chunks, then decode one token at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from minimistral import captured
from minimistral.cache import RollingBuffer
from minimistral.config import check_count
from minimistral.hybrid import cache_for
from minimistral.model import Mistral


@dataclass
class Generation:
    """What generate() returns. One entry a prompt."""

    tokens: list[list[int]]  # the new ids, up to and including eos
    logprobs: list[list[float]]  # of each new id: its log-probability under the model itself, before any temperature or cut


def generate(model: Mistral, prompts: list[list[int]], max_new_tokens: int = 32, *, temperature: float = 0.0,
             top_k: int | None = None, top_p: float | None = None, min_p: float | None = None,
             chunk_size: int | None = None, seed: int | None = None, eos_id: int | None = 2,
             progress: bool = False) -> Generation:
    """Continue prompts (lists of ids, of any lengths) by at most max_new_tokens ids each.

    temperature  0 takes the likeliest id. Above 0: logits are divided by it, cut by top_k, top_p and min_p, then drawn from
    chunk_size   how many tokens of the prompts are fed at once (None: all). Never changes the answer, only time and memory
    seed         makes drawing repeatable on one machine, and leaves PyTorch's global generator alone
    eos_id       a row stops after this id; None: it never stops
    progress     show a bar

    Raises ValueError for empty or mistyped prompts, ids the model does not have, and numbers out of range.
    """
    steps = decode(model, prompts, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                   chunk_size=chunk_size, seed=seed, eos_id=eos_id)
    out = Generation([[] for _ in prompts], [[] for _ in prompts])
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, total=max_new_tokens, unit="token")
    for ids, logprobs in steps:
        for row, (token, logprob) in enumerate(zip(ids, logprobs, strict=True)):
            if token is not None:
                out.tokens[row].append(token)
                out.logprobs[row].append(logprob)
    return out


def stream(model: Mistral, tokenizer, prompt: str, max_new_tokens: int = 200, **options) -> Iterator[str]:
    """Continue a text, yielding new text as it comes. Takes generate()'s options.

    A piece is held back while its bytes end in the middle of a character, so that the joined pieces are exactly the
    decoded whole. Raises ValueError as generate() does, and for a tokenizer that is another model's.
    """
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids and the model {model.config.vocab_size}: they do not belong together."
        )
    options.setdefault("eos_id", tokenizer.eos_id)
    start = tokenizer.encode(prompt, bos=True)
    new = (ids[0] for ids, _ in decode(model, [start], max_new_tokens, **options))
    return tokenizer.stream(new, after=start)


def decode(model: Mistral, prompts: list[list[int]], max_new_tokens: int, *, temperature: float = 0.0,
           top_k: int | None = None, top_p: float | None = None, min_p: float | None = None, chunk_size: int | None = None,
           seed: int | None = None, eos_id: int | None = 2,
           cache: RollingBuffer | None = None) -> Iterator[tuple[list, list]]:
    """The loop under generate() and stream(): yields, each step, one new id and its log-probability a row.

    A row that has met eos yields None from then on; the loop ends when all have, or after max_new_tokens. A cache that has
    read something already is continued: the prompts are what comes next.
    """
    check_prompts(prompts, model.config.vocab_size)
    check_sampling(temperature, top_k, top_p, min_p, model.config.vocab_size)
    check_count("max_new_tokens", max_new_tokens, least=0)
    if chunk_size is not None:
        check_count("chunk_size", chunk_size)
    return _decode(model, prompts, max_new_tokens, temperature, top_k, top_p, min_p, chunk_size, seed, eos_id, cache)


ORDINARY = 16  # steps that call the model; if many are to come then, they go faster as one graph: see captured.py


@torch.inference_mode()
def _decode(model, prompts, max_new_tokens, temperature, top_k, top_p, min_p, chunk_size, seed, eos_id, cache):
    weight = model.output.weight
    cache = cache or cache_for(model.config, batch_size=len(prompts), device=weight.device, dtype=weight.dtype)
    generator = None if seed is None else torch.Generator(weight.device).manual_seed(seed)
    running = [True] * len(prompts)

    def step(ids):  # (B,) -> logits (B, V); moves the cache on
        return model(ids[:, None], cache=cache)[:, -1]

    logits = prefill(model, prompts, cache, chunk_size) if max_new_tokens else None
    for left in reversed(range(max_new_tokens)):
        chosen = draw(logits, temperature, top_k, top_p, min_p, generator)
        read = sent(chosen, logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0])
        if max_new_tokens - left == ORDINARY:
            step = captured.captured(model, cache, left) or step
        ahead = left and chosen.is_cuda  # the GPU goes on while the ids travel: it never waits for Python
        if ahead:
            logits = step(chosen)
        ids, logprobs = read()
        for row, logprob in enumerate(logprobs):
            if isnan(logprob):
                raise broken(row)
        yield (
            [token if on else None for token, on in zip(ids, running, strict=True)],
            [logprob if on else None for logprob, on in zip(logprobs, running, strict=True)],
        )
        running = [on and token != eos_id for token, on in zip(ids, running, strict=True)]
        if not any(running):
            return
        if left and not ahead:
            logits = step(chosen)


def sent(*tensors: Tensor) -> Callable[[], list[list]]:
    """Start the way of tensors to the CPU; the function returned waits until they are there, and for nothing else."""
    if not tensors[0].is_cuda:
        return lambda: [x.tolist() for x in tensors]
    here = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for x in tensors]
    arrived = torch.cuda.Event()
    arrived.record()

    def read():
        arrived.synchronize()
        return [x.tolist() for x in here]

    return read


# --- pre-fill -------------------------------------------------------------------------------------------------------------


def prefill(model: Mistral, prompts: list[list[int]], cache: RollingBuffer, chunk_size: int | None = None) -> Tensor:
    """Feed whole prompts, chunk_size tokens of each at a time; return each row's logits after its last token: (B, V)."""
    device = model.output.weight.device
    longest = max(map(len, prompts))
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    padded = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts], device=device)
    last = None
    for start in range(0, longest, chunk_size or longest):
        chunk = padded[:, start : start + (chunk_size or longest)]
        here = (lengths - start).clamp(0, chunk.shape[1])
        logits = model(chunk, cache=cache, lengths=here, last_only=True)[:, 0]
        last = logits if last is None else torch.where((here > 0)[:, None], logits, last)
    return last


# --- drawing --------------------------------------------------------------------------------------------------------------


def choose(logits: Tensor, temperature: float = 0.0, top_k: int | None = None, top_p: float | None = None,
           min_p: float | None = None, generator: torch.Generator | None = None) -> Tensor:
    """One id for each row of logits (B, V): the likeliest at temperature 0, else drawn from what the cuts leave."""
    check_sampling(temperature, top_k, top_p, min_p, logits.shape[-1])
    check_logits(logits)
    return draw(logits, temperature, top_k, top_p, min_p, generator)


def draw(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None,
         generator: torch.Generator | None) -> Tensor:
    """choose() for what is known to fit: nothing in it waits for the device. Of broken logits it makes some id."""
    if temperature == 0:
        return logits.argmax(-1)
    p = cut(logits, temperature, top_k, top_p, min_p)
    return (p / torch.empty_like(p).exponential_(generator=generator)).argmax(-1)  # as torch.multinomial does it


def probabilities(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
                  min_p: float | None = None) -> Tensor:
    """What is drawn from: logits (B, V) -> probabilities (B, V), zero where cut, rescaled to sum to 1. In this order:

    temperature  divides the logits: below 1 sharper, above 1 flatter; 0 leaves the likeliest alone
    top_k        keep the k likeliest ids
    top_p        keep the fewest likeliest ids that together hold at least p
    min_p        keep ids at least min_p times as likely as the likeliest

    Raises ValueError for settings out of their range and for logits that nothing can be drawn from.
    """
    check_sampling(temperature, top_k, top_p, min_p, logits.shape[-1])
    check_logits(logits)
    if temperature == 0:
        return one_hot(logits.argmax(-1), logits.shape[-1]).float()
    return cut(logits, temperature, top_k, top_p, min_p)


def cut(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None) -> Tensor:
    """probabilities() at a temperature above 0, for what is known to fit."""
    logits = logits.float()
    p = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)  # off first: 10 / 1e-39 is inf
    if top_k is not None or top_p is not None:
        ranked, order = p.sort(dim=-1, descending=True, stable=True)
        cut = torch.zeros_like(ranked, dtype=torch.bool)
        if top_k is not None:
            cut[:, top_k:] = True
            ranked = ranked.masked_fill(cut, 0)
            ranked = ranked / ranked.sum(-1, keepdim=True)
        if top_p is not None and top_p < 1:  # rounded, the sum reaches 1 before the last id
            cut |= ranked.cumsum(-1) - ranked >= top_p
        p = p.masked_fill(cut.gather(-1, order.argsort(-1)), 0)
        p = p / p.sum(-1, keepdim=True)
    if min_p is not None:
        p = p.masked_fill(p < min_p * p.amax(-1, keepdim=True), 0)
        p = p / p.sum(-1, keepdim=True)
    return p


def check_prompts(prompts, vocab_size: int):
    """Raise ValueError for anything but a non-empty list of non-empty lists of ids the model has."""
    if not isinstance(prompts, list) or not prompts:
        raise ValueError(f"prompts is {prompts!r}: expected at least one prompt, as a list of lists of ids: [[1, 22557]].")
    for n, prompt in enumerate(prompts):
        if not isinstance(prompt, list):
            raise ValueError(f"prompt {n} is a {type(prompt).__name__}: expected a list of ids, as tokenizer.encode gives.")
        if not prompt:
            raise ValueError(f"prompt {n} is empty: a model needs at least one id to start from, usually bos (1).")
        for token in prompt:
            if not isinstance(token, int) or isinstance(token, bool):
                raise ValueError(f"prompt {n} holds {token!r}: ids are whole numbers.")
            if not 0 <= token < vocab_size:
                raise ValueError(f"prompt {n} holds the id {token}; this model's ids are 0 to {vocab_size - 1}.")


def check_logits(logits: Tensor):
    """Raise ValueError for the first row with NaN or +inf in it, or with -inf alone."""
    rows = (~logits.amax(-1).isfinite()).flatten()
    if rows.any():
        raise broken(rows.nonzero()[0].item())


def broken(row: int) -> ValueError:
    """The error for a row of logits that nothing can be drawn from."""
    return ValueError(f"row {row} of the logits holds NaN or infinity: no id can be chosen; look for NaN in the weights.")


def check_sampling(temperature, top_k, top_p, min_p, vocab_size: int):
    """Raise ValueError for the first setting that is out of its range."""
    def number(value):
        return isinstance(value, int | float) and not isinstance(value, bool)

    if not number(temperature) or not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature!r}: expected a number of at least 0 (0: take the likeliest).")
    if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= vocab_size):
        raise ValueError(f"top_k is {top_k!r}: expected a whole number from 1 to the vocabulary's {vocab_size}.")
    if top_p is not None and (not number(top_p) or not 0 < top_p <= 1):
        raise ValueError(f"top_p is {top_p!r}: expected a share above 0 and at most 1.")
    if min_p is not None and (not number(min_p) or not 0 <= min_p <= 1):
        raise ValueError(f"min_p is {min_p!r}: expected a share from 0 to 1.")
