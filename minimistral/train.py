"""Training: next-token loss, AdamW, a learning rate that rises and falls, checkpoints. Chapter 09 is its lesson.

    batches = train.from_folder("my-texts", tokenizer, T=256, batch_size=16)
    model = train.new_model(config, seed=1)
    log = train.fit(model, batches, steps=500, folder="my-model")

A batch is a pure function of the step: batches(step) -> ids (B, T+1) int64, or (ids, weights) with weights (B, T+1) float,
where some tokens count more than others. So whoever goes on at step 300 need not know what was drawn before.
"""

import math
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from minimistral.config import MistralConfig
from minimistral.model import Mistral
from minimistral.progress import LiveCurve, Log, Samples, sample
from minimistral.resume import TrainingCheckpoint, TrainingError, stop_button
from minimistral.texts import TextError, VocabularyError, from_folder, from_stories, from_texts, learn_vocabulary, read_folder

__all__ = ["fit", "loss", "backward", "new_model", "adamw", "rise_and_fall", "Log", "LiveCurve", "Samples", "sample",
           "TrainingError", "TextError", "VocabularyError", "from_folder", "from_stories", "from_texts", "learn_vocabulary",
           "read_folder"]  # fmt: skip
TICKS = 1000  # into which the learning rate's way is divided where it follows the clock


def new_model(config: MistralConfig, seed: int) -> Mistral:
    """Small random weights; smaller ones where a layer adds to the residual stream."""
    torch.manual_seed(seed)
    model = Mistral(config)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            added = name.endswith(("wo.weight", "w2.weight"))
            nn.init.normal_(p, std=0.02 / (2 * config.n_layers) ** 0.5 if added else 0.02)
    return model


def loss(model: Mistral, ids: Tensor, weights: Tensor | None = None) -> Tensor:
    """How little the model expected what came: the mean of -log(its probability), in nats a token. A scalar.

    ids (B, T+1). Token i+1 is predicted from tokens 0 ... i, so the first of a row is only read, the last only predicted.
    weights (B, T+1) make it a weighted mean over the tokens predicted; weights[:, 0] counts nowhere.
    """
    logits = model(ids[:, :-1])  # (B, T, V)
    each = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")  # (B T,)
    if weights is None:
        return each.mean()
    counts = weights[:, 1:].flatten()
    return (each * counts).sum() / counts.sum()


def backward(model: Mistral, parts: list[tuple[Tensor, Tensor | None]]) -> float:
    """Add up the gradients of several batches, (ids, weights) each, as if they were one; -> the loss of that one.

    Each counts by its share of the tokens predicted, or of their weights: a mean of means would be another loss.
    """
    counts = [ids[:, 1:].numel() if weights is None else weights[:, 1:].sum().item() for ids, weights in parts]
    value = 0.0
    for (ids, weights), count in zip(parts, counts, strict=True):
        share = loss(model, ids, weights) * (count / sum(counts))
        share.backward()
        value += share.item()
    return value


def adamw(model: Mistral, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """PyTorch's AdamW. The matrices decay; the norms' vectors, whose natural size is 1, do not."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas)


def rise_and_fall(optimizer, total: int, warmup: int, final: float) -> LRScheduler:
    """The learning rate lr after n of `total` steps, with w = min(warmup, total // 2):

    n <= w  a straight line from lr / 100 up to lr
    n > w   half a cosine from lr down to final * lr
    """
    lr, w = optimizer.param_groups[0]["lr"], min(warmup, total // 2)
    if w == 0:  # PyTorch 2.11 would begin with a step of the rise all the same
        return CosineAnnealingLR(optimizer, total, eta_min=final * lr)
    rise = LinearLR(optimizer, 0.01, total_iters=w)
    fall = CosineAnnealingLR(optimizer, total - w, eta_min=final * lr)
    return SequentialLR(optimizer, [rise, fall], [w])


def fit(model: Mistral, batches: Callable, *, steps: int | None = None, seconds: float | None = None, lr: float = 2e-3,
        warmup: int = 100, final: float = 0.1, weight_decay: float = 0.1, betas: tuple[float, float] = (0.9, 0.95),
        clip: float = 1.0, accumulate: int = 1, folder=None, every: int = 200, resume: bool = False,
        watch: Callable[[Log], None] | None = None, log_every: int = 10, progress: bool = True) -> Log:
    """Train a model in place; -> the Log. It ends without gradients, ready to generate.

    steps, seconds     when to stop, whichever comes first; at least one. With seconds the learning rate follows the clock
    lr, warmup, final  the highest rate, the steps up to it (with seconds: thousandths of the time), and the part of it
                       that is left at the end; see rise_and_fall()
    clip               a gradient with a longer norm is shortened to this
    accumulate         batches a step, as if they were one: step n takes batches(n * accumulate) and those that follow
    folder, every      at the start and every so many steps all that is needed to go on is written to folder/training.pt, and
                       at the end the model beside it, as mm.load reads it. An older training there is replaced
    resume             go on from there: on a CPU to the same weights, bit for bit, as without the stop
    watch              is called with the log every log_every steps, and at the end; LiveCurve is one
    progress           a bar with loss, tokens/s and the time left

    Ctrl-C, or a notebook's stop button, ends it after the step under way, with a checkpoint; pressed twice, at once.

    Rows with T <= W are trained on, with a warning: short rows make a cheap first stage, but no query ever looks past the
    window there, and what the model does beyond stays untrained.

    Raises TrainingError, a ValueError: for settings or a checkpoint that do not fit (before anything is computed), a loss
    that is not a number (the weights are then those of before the step), and a file that cannot be written.
    """
    settings = dict(steps=steps, seconds=seconds, lr=lr, warmup=warmup, final=final, weight_decay=weight_decay,
                    betas=tuple(betas), clip=clip, accumulate=accumulate)
    check_settings(model, settings, every, log_every, folder, resume)
    optimizer = adamw(model, lr, betas, weight_decay)
    schedule = rise_and_fall(optimizer, TICKS if seconds else steps, warmup, final)
    checkpoint = TrainingCheckpoint(folder, settings, model=model, optimizer=optimizer, schedule=schedule)
    log = checkpoint.read() if resume else Log()
    began = time.perf_counter() - log.seconds
    model.requires_grad_(True).train()
    try:
        with stop_button() as stop, bar(steps, seconds, log, progress) as shown:
            while not stop and len(log.steps) != steps and (seconds is None or log.seconds < seconds):
                step, rng = len(log.steps), torch.get_rng_state()
                parts = [pair(batches(step * accumulate + n), model) for n in range(accumulate)]
                check_rows(parts[0][0], max(filter(None, model.config.windows), default=None), step)
                value = backward(model, parts)
                norm = nn.utils.clip_grad_norm_(model.parameters(), clip).item()
                check_number(value, norm, step, checkpoint)
                if step % every == 0 and step > checkpoint.step:
                    checkpoint.write(log, rng)  # only now: these weights are known to be good
                optimizer.step()
                optimizer.zero_grad()
                log.steps.append(step)
                log.losses.append(value)
                log.tokens += sum(ids[:, 1:].numel() for ids, _ in parts)
                log.seconds = time.perf_counter() - began
                due = step + 1 if seconds is None else min(TICKS, int(TICKS * log.seconds / seconds))
                while schedule.last_epoch < due:
                    schedule.step()
                shown.set_postfix_str(f"loss {log.recent():.3f}, {log.tokens / log.seconds:,.0f} tokens/s", refresh=False)
                shown.update((step + 1 if seconds is None else min(int(log.seconds), shown.total)) - shown.n)
                if watch and (step + 1) % log_every == 0:
                    watch(log)
        log.interrupted = bool(stop)
        checkpoint.write(log, torch.get_rng_state())
        checkpoint.write_model()
    finally:
        model.requires_grad_(False).eval()
        optimizer.zero_grad()
    if log.interrupted:
        print(f"Stopped after step {len(log.steps)}: " + (f"fit(..., folder={str(folder)!r}, resume=True) goes on from there."
              if folder else "the model is as it was then; with a folder one could go on from there."))  # fmt: skip
    log.finished = True
    if watch:
        watch(log)
    return log


def bar(steps, seconds, log: Log, progress: bool):
    """The progress bar of a training that ends after so many steps, or else after so many seconds."""
    from tqdm.auto import tqdm

    if seconds is None:
        return tqdm(total=steps, initial=len(log.steps), unit="step", disable=not progress)
    return tqdm(total=math.ceil(seconds), initial=int(log.seconds), unit="s", disable=not progress)


def pair(batch, model: Mistral) -> tuple[Tensor, Tensor | None]:
    """What batches(step) gave, as (ids, weights or None) where the model is."""
    ids, weights = batch if isinstance(batch, tuple | list) else (batch, None)
    device = model.output.weight.device
    return ids.to(device), None if weights is None else weights.to(device)


# --- what is refused --------------------------------------------------------------------------------------------------------


def check_settings(model, settings, every, log_every, folder, resume):
    """Refuse, before anything is computed, what fit() cannot train with: raises TrainingError."""
    counts = dict(steps=settings["steps"], accumulate=settings["accumulate"], every=every, log_every=log_every)
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise TrainingError(f"{name} is {value!r}: expected a whole number of at least 1.")
    for name in ("seconds", "lr", "clip"):
        value = settings[name]
        if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise TrainingError(f"{name} is {value!r}: expected a number above 0.")
    if settings["steps"] is None and settings["seconds"] is None:
        raise TrainingError("Neither steps nor seconds is given: say when to stop.")
    if (dtype := model.output.weight.dtype) != torch.float32:
        raise TrainingError(f"The model is {dtype}, in which small updates round to nothing: train model.float().")
    if resume and folder is None:
        raise TrainingError("resume is True and folder is None: give the folder that the training was kept in.")


def check_rows(ids: Tensor, window: int | None, step: int):
    """Refuse rows that are none (TrainingError); warn once of rows too short to cross the widest window."""
    if ids.ndim != 2 or ids.dtype != torch.int64 or ids.shape[1] < 2:
        raise TrainingError(f"batches({step}) gave ids {tuple(ids.shape)} {ids.dtype}; expected (B, T + 1) int64, T at least 1.")
    if step == 0 and window is not None and (T := ids.shape[1] - 1) <= window:
        warnings.warn(f"Rows of T = {T} tokens never cross the window of W = {window}: what the model does past it stays "
                      f"untrained. Take T above {window}, best twice that or more.", stacklevel=3)


def check_number(value: float, norm: float, step: int, checkpoint: TrainingCheckpoint):
    """Refuse a loss, or a gradient's length, that is not a number: raises TrainingError, which names the last good checkpoint."""
    if not (math.isfinite(value) and math.isfinite(norm)):
        raise TrainingError(f"At step {step} the loss is {value} and the length of its gradient {norm}; {checkpoint}. "
                            "Take a smaller lr, and look at what batches() gives for this step.")
