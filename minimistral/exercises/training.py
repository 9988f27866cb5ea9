"""Chapter 09: the loss from logits, a learning-rate schedule, a sampler of planted facts, and training steps in parts."""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from minimistral.exercises.frame import Exercise, difference, run


@cache
def optimizers_loaded():
    """PyTorch loads its compiler when an optimizer is used for the first time; that must not count as an answer's time."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
    optimizer.zero_grad()
    optimizer.step()


# --- the loss -------------------------------------------------------------------------------------------------------------


def loss_draws():
    """(logits, ids, weights): a hand-made first case; rows of unequal weight; weights of 0; logits too large for exp()."""
    g = torch.Generator().manual_seed(9)
    first = torch.tensor([[[math.log(3.0), 0.0], [0.0, 1.0], [2.0, 0.0]]]), torch.tensor([[1, 0, 1]]), torch.tensor([[4.0, 1.0, 3.0]])
    cases = [first]
    for B, T, V in ((1, 4, 3), (2, 3, 5), (3, 6, 4), (4, 5, 7)):
        logits, weights = torch.randn(B, T, V, generator=g), torch.randint(0, 4, (B, T), generator=g).float()
        weights[:, 0] = torch.arange(B) + 2.0  # nobody predicts a first token, whatever its weight
        weights[0, 1] = 3.0
        cases.append((logits, torch.randint(V, (B, T), generator=g), weights))
    logits, ids, weights = cases[2]
    cases.append((300 * logits, ids, weights))
    padded = torch.ones(3, 6)
    padded[1, 2:] = padded[2] = 0  # a row that ends early, and one that is nothing but padding
    cases.append((*cases[3][:2], padded))
    return cases


NO_GRADIENT = "A plain number has no gradient. Leave it a tensor: no .item(), no float(), no .detach(), no torch.tensor() around it."


def slope(loss):
    """A loss of (logits, ids, weights) made into a function that gives its gradient at the logits."""

    def at(logits, ids, weights):
        return torch.autograd.grad(loss(logits.requires_grad_(), ids, weights), logits)[0]

    return at


class Trainable(Exercise):
    """An exercise whose right numbers are not enough: their gradient at the first argument must be right as well."""

    def _judge(self, yours) -> str:
        said = super()._judge(yours)
        for case in self.cases() if self._passed else ():
            mine, theirs = (run(slope(one), case, within=torch.enable_grad) for one in (self.answer, yours))
            if theirs.trouble or difference(mine.value, theirs.value, self.tolerance):
                self._passed, self._advice = False, NO_GRADIENT
                return f"✗ {self.name}: the number is right, but no gradient (or a wrong one) flows back through it to the logits."
        return said


next_token_loss = Trainable(
    "next_token_loss",
    cases=loss_draws,
    forbid=("cross_entropy", "nll_loss", "cross_entropy_loss"),
    hints=[
        "The last column of logits bets on a token that nobody has: logits[:, :-1] are left, and they bet on ids[:, 1:]. Their weights are weights[:, 1:].",
        "The logarithm of a softmax: logits - logits.logsumexp(-1, keepdim=True), or logits.log_softmax(-1). It cannot overflow.",
        "From (B, T - 1, V) pick one number per place: logs.gather(-1, ids[:, 1:, None])[..., 0].",
        "Then the weighted mean: the sum of weight times loss, divided by the sum of the weights that were used.",
    ],
)


@next_token_loss.reference
def _(logits, ids, weights):
    logs = logits[:, :-1].log_softmax(-1)
    losses = -logs.gather(-1, ids[:, 1:, None])[..., 0]
    counts = weights[:, 1:]
    return (losses * counts).sum() / counts.sum()


@next_token_loss.right
def _(logits, ids, weights):
    total = torch.tensor(0.0)
    for b in range(ids.shape[0]):
        for t in range(ids.shape[1] - 1):
            row = logits[b, t]
            total += weights[b, t + 1] * (row.logsumexp(0) - row[ids[b, t + 1]])
    return total / weights[:, 1:].sum()


@next_token_loss.right
def _(logits, ids, weights):
    bets, targets, counts = logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), weights[:, 1:].flatten()
    bets = bets - bets.max(-1, keepdim=True).values
    right = bets[range(len(bets)), targets]
    return torch.dot(bets.exp().sum(-1).log() - right, counts) / counts.sum()


@next_token_loss.right
def _(logits, ids, weights):
    hot = torch.eye(logits.shape[-1])[ids]
    losses = (torch.logsumexp(logits, -1)[:, :-1, None] - logits[:, :-1]) * hot[:, 1:]
    share = weights[:, 1:] / torch.sum(weights[:, 1:])
    return torch.einsum("btv,bt->", losses, share)


def weighted(losses, counts):
    """The mean of losses, each counting as often as `counts` says."""
    return (losses * counts).sum() / counts.sum()


def losses_of(logits, targets):
    """(...,) minus the logarithm of what each target was given; for the mistakes below."""
    return -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]


@next_token_loss.mistake("Each token is asked for itself. The logits at place t bet on the token at t + 1: shift the one against the other.")
def _(logits, ids, weights):
    return weighted(losses_of(logits, ids), weights)


@next_token_loss.mistake("Shifted, but the wrong way: this asks the logits for the token before.")
def _(logits, ids, weights):
    return weighted(losses_of(logits[:, 1:], ids[:, :-1]), weights[:, 1:])


@next_token_loss.mistake("Shifted, but the wrong way: this asks the logits for the token before.")
def _(logits, ids, weights):
    return weighted(losses_of(logits[:, 1:], ids[:, :-1]), weights[:, :-1])


@next_token_loss.mistake("The last place bets on the row's own first token: roll() goes round. Cut the last logits off.")
def _(logits, ids, weights):
    return weighted(losses_of(logits, ids.roll(-1, 1)), weights.roll(-1, 1))


@next_token_loss.mistake("The weights are not shifted: a loss takes the weight of the token that is predicted.")
def _(logits, ids, weights):
    return weighted(losses_of(logits[:, :-1], ids[:, 1:]), weights[:, :-1])


@next_token_loss.mistake("All weights in the sum below, also those of the first tokens, which nobody predicts. Divide by the sum of the weights used.")
def _(logits, ids, weights):
    return (losses_of(logits[:, :-1], ids[:, 1:]) * weights[:, 1:]).sum() / weights.sum()


@next_token_loss.mistake("Divided by the number of predictions. A weighted mean is divided by the sum of the weights.")
def _(logits, ids, weights):
    return (losses_of(logits[:, :-1], ids[:, 1:]) * weights[:, 1:]).mean()


@next_token_loss.mistake("The weights are left out.")
def _(logits, ids, weights):
    return losses_of(logits[:, :-1], ids[:, 1:]).mean()


@next_token_loss.mistake("The sum, and not yet the mean.")
def _(logits, ids, weights):
    return (losses_of(logits[:, :-1], ids[:, 1:]) * weights[:, 1:]).sum()


@next_token_loss.mistake("A mean of each row's mean. A short row then counts as much as a long one, and a row of padding is 0 / 0.")
def _(logits, ids, weights):
    counts = weights[:, 1:]
    return ((losses_of(logits[:, :-1], ids[:, 1:]) * counts).sum(1) / counts.sum(1)).mean()


@next_token_loss.mistake("One loss per row. One number for all rows together is asked for.")
def _(logits, ids, weights):
    counts = weights[:, 1:]
    return (losses_of(logits[:, :-1], ids[:, 1:]) * counts).sum(1) / counts.sum(1)


@next_token_loss.mistake("Each weight is taken for yes or no. A token of weight 3 counts three times as much as one of weight 1.")
def _(logits, ids, weights):
    return weighted(losses_of(logits[:, :-1], ids[:, 1:]), (weights[:, 1:] > 0).float())


@next_token_loss.mistake("Divided by the wrong weights: those of the last places, not of the tokens that are predicted, weights[:, 1:].")
def _(logits, ids, weights):
    return (losses_of(logits[:, :-1], ids[:, 1:]) * weights[:, 1:]).sum() / weights[:, :-1].sum()


@next_token_loss.mistake("The rows run into each other: the end of one bets on the beginning of the next. Shift each row, then flatten.")
def _(logits, ids, weights):
    return weighted(losses_of(logits.flatten(0, 1)[:-1], ids.flatten()[1:]), weights.flatten()[1:])


@next_token_loss.mistake("Shifted twice. The logits at place t bet on the token at t + 1.")
def _(logits, ids, weights):
    return weighted(losses_of(logits[:, :-2], ids[:, 2:]), weights[:, 2:])


@next_token_loss.mistake("The sign: a logarithm of a probability is negative, a loss is not.")
def _(logits, ids, weights):
    return -weighted(losses_of(logits[:, :-1], ids[:, 1:]), weights[:, 1:])


@next_token_loss.mistake("In bits. The natural logarithm is asked for: log, not log2.")
def _(logits, ids, weights):
    return weighted(losses_of(logits[:, :-1], ids[:, 1:]), weights[:, 1:]) / math.log(2)


@next_token_loss.mistake("The logit itself is taken for a logarithm of a probability. The softmax comes first.")
def _(logits, ids, weights):
    return weighted(-logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0], weights[:, 1:])


@next_token_loss.mistake("No logarithm: this is 1 minus the probability.")
def _(logits, ids, weights):
    return weighted(1 - logits[:, :-1].softmax(-1).gather(-1, ids[:, 1:, None])[..., 0], weights[:, 1:])


@next_token_loss.mistake("The logarithm of the mean probability. Take the logarithm of each, then the mean.")
def _(logits, ids, weights):
    return -weighted(logits[:, :-1].softmax(-1).gather(-1, ids[:, 1:, None])[..., 0], weights[:, 1:]).log()


@next_token_loss.mistake("Two softmaxes: what log_softmax gets must be logits, not probabilities.")
def _(logits, ids, weights):
    return weighted(losses_of(logits[:, :-1].softmax(-1), ids[:, 1:]), weights[:, 1:])


@next_token_loss.mistake("The softmax goes over the places. It goes over the vocabulary, the last dimension.")
def _(logits, ids, weights):
    return weighted(-logits[:, :-1].log_softmax(1).gather(-1, ids[:, 1:, None])[..., 0], weights[:, 1:])


LARGE = "Right while the logits are small; exp() of a large one is inf, and exp() of a very small one is 0. Use logsumexp or log_softmax."


@next_token_loss.mistake(LARGE)
def _(logits, ids, weights):
    powers = logits[:, :-1].exp()
    return weighted(-(powers / powers.sum(-1, keepdim=True)).gather(-1, ids[:, 1:, None])[..., 0].log(), weights[:, 1:])


@next_token_loss.mistake(LARGE)
def _(logits, ids, weights):
    return weighted(-logits[:, :-1].softmax(-1).log().gather(-1, ids[:, 1:, None])[..., 0], weights[:, 1:])


@next_token_loss.mistake(LARGE)
def _(logits, ids, weights):
    right = logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    return weighted(logits[:, :-1].exp().sum(-1).log() - right, weights[:, 1:])


FLOOR = "A smallest probability was set so that log(0) does not happen. It does not, but now the loss is wrong: use log_softmax."


@next_token_loss.mistake(FLOOR)
def _(logits, ids, weights):
    return weighted(-(logits[:, :-1].softmax(-1) + 1e-9).log().gather(-1, ids[:, 1:, None])[..., 0], weights[:, 1:])


@next_token_loss.mistake(FLOOR)
def _(logits, ids, weights):
    return weighted(-logits[:, :-1].softmax(-1).clamp(min=1e-9).log().gather(-1, ids[:, 1:, None])[..., 0], weights[:, 1:])


@next_token_loss.mistake("It is float64. Leave it in the logits' own dtype, or take it back there: .float().")
def _(logits, ids, weights):
    return weighted(losses_of(logits[:, :-1].double(), ids[:, 1:]), weights[:, 1:].double())


@next_token_loss.mistake(NO_GRADIENT)
def _(logits, ids, weights):
    return weighted(losses_of(logits[:, :-1], ids[:, 1:]), weights[:, 1:]).item()


@next_token_loss.mistake(NO_GRADIENT)
def _(logits, ids, weights):
    return weighted(losses_of(logits[:, :-1], ids[:, 1:]), weights[:, 1:]).detach()


@next_token_loss.mistake(NO_GRADIENT)
def _(logits, ids, weights):
    return torch.tensor(weighted(losses_of(logits[:, :-1], ids[:, 1:]), weights[:, 1:]).item())


@next_token_loss.mistake(NO_GRADIENT)
def _(logits, ids, weights):
    with torch.no_grad():
        return weighted(losses_of(logits[:, :-1], ids[:, 1:]), weights[:, 1:])


# --- the learning rate ----------------------------------------------------------------------------------------------------


def rate_draws():
    """(step, steps, peak, warmup, final): the three points, between them, past the end; no warm-up; no fall; one step."""
    optimizers_loaded()
    cases = [(0, 10, 1.0, 4, 0.1), (4, 10, 1.0, 4, 0.1), (2, 10, 1.0, 4, 0.1), (7, 10, 1.0, 4, 0.1), (10, 10, 1.0, 4, 0.1)]
    cases += [(1, 10, 1.0, 4, 0.1), (5, 10, 1.0, 4, 0.1), (9, 10, 1.0, 4, 0.1), (12, 10, 1.0, 4, 0.1), (25, 10, 1.0, 4, 0.1)]
    cases += [(step, 9, 3.0, 0, 0.25) for step in (0, 3, 8, 9)]
    cases += [(step, 7, 4.0, 2, 1.0) for step in (1, 2, 5, 7)]
    cases += [(step, 8, 6.0, 3, 0.0) for step in (3, 4, 8, 11)] + [(0, 1, 5.0, 0, 0.5), (1, 1, 5.0, 0, 0.5)]
    return cases + [(step, 2000, 0.02, 100, 0.1) for step in (0, 50, 100, 1050, 1999)]


learning_rate = Exercise(
    "learning_rate",
    cases=rate_draws,
    tolerance=1e-6,
    hints=[
        "Two pieces. Which one are you on? if step < warmup.",
        "On the line: peak * (0.01 + 0.99 * step / warmup).",
        "On the fall: done = (step - warmup) / (steps - warmup) goes from 0 to 1 (and stays there: min(1, ...)). (1 + cos(pi * done)) / 2 goes from 1 to 0.",
        "Of the peak, `final` stays and 1 - final falls: peak * (final + (1 - final) * (1 + cos(pi * done)) / 2).",
    ],
)


@learning_rate.reference
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    done = min(1, (step - warmup) / (steps - warmup))
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * done)) / 2)


@learning_rate.right
def _(step, steps, peak, warmup, final):
    low = final * peak
    if step >= steps:
        return low
    if step >= warmup:
        return low + (peak - low) * math.cos(math.pi / 2 * (step - warmup) / (steps - warmup)) ** 2
    return peak / 100 + (peak - peak / 100) * step / warmup


@learning_rate.right
def _(step, steps, peak, warmup, final):
    middle, half = (peak + final * peak) / 2, (peak - final * peak) / 2
    angle = torch.tensor(math.pi * (min(step, steps) - warmup) / (steps - warmup), dtype=torch.float64)
    return peak * torch.lerp(torch.tensor(0.01), torch.tensor(1.0), step / warmup) if step < warmup else middle + half * angle.cos()


@learning_rate.right
def _(step, steps, peak, warmup, final):
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=peak)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup, eta_min=final * peak)
    schedule = fall
    if warmup:
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, total_iters=warmup)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [warmup])
    for _ in range(min(step, steps)):
        optimizer.step()
        schedule.step()
    return optimizer.param_groups[0]["lr"]


def fallen(step, steps, peak, warmup, final):
    """The second piece alone, for the mistakes below."""
    done = min(1, (step - warmup) / (steps - warmup))
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * done)) / 2)


@learning_rate.mistake("The line starts at 0. It starts at a hundredth of the peak, so that the first step is one.")
def _(step, steps, peak, warmup, final):
    return peak * step / warmup if step < warmup else fallen(step, steps, peak, warmup, final)


@learning_rate.mistake("The line starts at 0 and is cut off below. It starts at a hundredth of the peak and is straight from there.")
def _(step, steps, peak, warmup, final):
    return peak * max(0.01, step / warmup) if step < warmup else fallen(step, steps, peak, warmup, final)


@learning_rate.mistake("The line starts at 0.01 and climbs by a whole peak, so it ends too high. It climbs by 0.99 of it.")
def _(step, steps, peak, warmup, final):
    return peak * (0.01 + step / warmup) if step < warmup else fallen(step, steps, peak, warmup, final)


@learning_rate.mistake("0.01 is taken for a rate. The line starts at a hundredth of the peak: 0.01 * peak.")
def _(step, steps, peak, warmup, final):
    return 0.01 + (peak - 0.01) * step / warmup if step < warmup else fallen(step, steps, peak, warmup, final)


@learning_rate.mistake("The line arrives one step too soon. It takes `warmup` steps, not warmup - 1.")
def _(step, steps, peak, warmup, final):
    return peak * (0.01 + 0.99 * step / max(1, warmup - 1)) if step < warmup else fallen(step, steps, peak, warmup, final)


@learning_rate.mistake("One step ahead everywhere. Steps count from 0.")
def _(step, steps, peak, warmup, final):
    step += 1
    return peak * (0.01 + 0.99 * step / warmup) if step < warmup else fallen(step, steps, peak, warmup, final)


@learning_rate.mistake("One step early: the peak is reached at step `warmup`, not at the one before.")
def _(step, steps, peak, warmup, final):
    return peak * (step + 1) / warmup if step < warmup else fallen(step, steps, peak, warmup, final)


@learning_rate.mistake("With a warm-up of 0 it divides by 0. Then there is no line, and step 0 has the peak.")
def _(step, steps, peak, warmup, final):
    return min(peak * (0.01 + 0.99 * step / warmup), fallen(step, steps, peak, warmup, final))


@learning_rate.mistake("The line is there, and then the peak stays. Half a cosine down is missing.")
def _(step, steps, peak, warmup, final):
    return peak * (0.01 + 0.99 * step / warmup) if step < warmup else peak


@learning_rate.mistake("It falls from the start, without a warm-up.")
def _(step, steps, peak, warmup, final):
    return fallen(step, steps, peak, 0, final)


@learning_rate.mistake("The fall is counted from step 0, so it jumps at the peak. Count from `warmup`: step - warmup, of steps - warmup.")
def _(step, steps, peak, warmup, final):
    return peak * (0.01 + 0.99 * step / warmup) if step < warmup else fallen(step, steps, peak, 0, final)


@learning_rate.mistake("The fall begins at `warmup` but takes `steps` steps, so it does not arrive. It takes steps - warmup.")
def _(step, steps, peak, warmup, final):
    return peak * (0.01 + 0.99 * step / warmup) if step < warmup else fallen(step, steps + warmup, peak, warmup, final)


@learning_rate.mistake("A whole cosine comes back up. From 1 to -1 is half of one: an angle from 0 to pi.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    done = min(1, (step - warmup) / (steps - warmup))
    return peak * (final + (1 - final) * (1 + math.cos(2 * math.pi * done)) / 2)


@learning_rate.mistake("A quarter of a cosine: it falls late and ends steeply. From 1 to -1 is an angle from 0 to pi.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    done = min(1, (step - warmup) / (steps - warmup))
    return peak * (final + (1 - final) * math.cos(math.pi * done / 2))


@learning_rate.mistake("A straight line down. Half a cosine stays high for a while, and low for a while.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    return peak * (1 - (1 - final) * min(1, (step - warmup) / (steps - warmup)))


@learning_rate.mistake("1 + cos goes from 2 to 0, so the fall starts too high. Halve it.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * min(1, (step - warmup) / (steps - warmup)))))


@learning_rate.mistake("Upside down: 1 - cos rises. 1 + cos falls.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    return peak * (final + (1 - final) * (1 - math.cos(math.pi * min(1, (step - warmup) / (steps - warmup)))) / 2)


@learning_rate.mistake("The bare cosine goes down to -1 times the peak. Bring it between 0 and 1 first: (1 + cos) / 2.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    return peak * math.cos(math.pi * min(1, (step - warmup) / (steps - warmup)))


@learning_rate.mistake("`final` is missing below: 1 - final falls, and `final` stays. Add it.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    return peak * (1 - final) * (1 + math.cos(math.pi * min(1, (step - warmup) / (steps - warmup)))) / 2


@learning_rate.mistake("It falls to 0. It ends at `final` times the peak.")
def _(step, steps, peak, warmup, final):
    return peak * (0.01 + 0.99 * step / warmup) if step < warmup else fallen(step, steps, peak, warmup, 0)


@learning_rate.mistake("`final` is taken for a rate. It is a share of the peak: it ends at final * peak.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    return fallen(step, steps, peak, warmup, final / peak)


@learning_rate.mistake("`final` is added on top, so the peak is too high: of the peak `final` stays, and 1 - final falls.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    done = min(1, (step - warmup) / (steps - warmup))
    return peak * (final + (1 + math.cos(math.pi * done)) / 2)


@learning_rate.mistake("It never goes below `final`, but the cosine falls to 0 on the way and is cut off. Let it fall to `final` itself.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    return max(final * peak, fallen(step, steps, peak, warmup, 0))


@learning_rate.mistake("Past the end it goes up again: cosine does. From step `steps` on it stays at final * peak.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2)


@learning_rate.mistake("The end is reached at step steps - 1. It is reached at step `steps`, one past the last.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    return fallen(step, max(steps - 1, warmup + 1e-9), peak, warmup, final)


@learning_rate.mistake("The cosine works in radians: half a turn is pi, not 180.")
def _(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (0.01 + 0.99 * step / warmup)
    done = min(1, (step - warmup) / (steps - warmup))
    return peak * (final + (1 - final) * (1 + math.cos(180 * done)) / 2)


@learning_rate.mistake("It is a share of the peak so far. Multiply by `peak`.")
def _(step, steps, peak, warmup, final):
    return 0.01 + 0.99 * step / warmup if step < warmup else fallen(step, steps, 1.0, warmup, final)


# --- steps in parts: a signature and an invariant -------------------------------------------------------------------------


@cache
def toy(seed: int):
    """() -> a small model that sees one token at a time, and its AdamW: the same ones every time."""

    def start():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7, bias=False))
        model[1].weight.data.mul_(3)
        return model, torch.optim.AdamW(model.parameters(), lr=0.05, eps=1e-3, weight_decay=0.1)

    return start


def step_draws():
    """(start, steps, max_norm): one part a step, several of unequal size, a norm that does not bind and one that does."""
    optimizers_loaded()
    g = torch.Generator().manual_seed(10)

    def step(width, *rows):
        return [torch.randint(7, (B, width), generator=g) for B in rows]

    one, uneven, many = [step(2, 1)] * 2, [step(4, 1, 3), step(4, 2, 5)], [step(5, 3, 1, 2), step(5, 1, 4), step(5, 6)]
    return [
        (toy(0), one, 100.0),
        (toy(1), [step(3, 2), step(3, 4), step(3, 1)], 100.0),
        (toy(2), [*uneven, uneven[0]], 100.0),
        (toy(3), [step(3, 3), step(3, 2), step(3, 3), step(3, 4)], 0.02),
        (toy(4), [*many, many[0], many[1]], 0.05),
        (toy(5), [*many, *uneven], 0.6),
    ]


train_steps = Exercise(
    "train_steps",
    cases=step_draws,
    within=torch.enable_grad,  # whatever a notebook has switched off
    hints=[
        "A step's parts each give a gradient, and backward() adds to the gradients that are already there. What must happen once a step, and not once a part?",
        "F.cross_entropy gives the mean over its part. A part with 6 predictions of a step's 24 is a quarter of the step's mean: multiply its loss by 6 / 24 before backward().",
        "Once a step: zero_grad, then all the parts, then torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm), then optimizer.step().",
        "What is returned is the sum of the parts' shares: it is worked out before the update anyway.",
    ],
)


@train_steps.reference
def _(start, steps, max_norm):
    model, optimizer = start()
    losses = []
    for parts in steps:
        optimizer.zero_grad()
        count, total = sum(ids[:, 1:].numel() for ids in parts), 0.0
        for ids in parts:
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="sum") / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        losses.append(total)
    return losses


@train_steps.right
def _(start, steps, max_norm):
    model, optimizer = start()
    losses = []
    for parts in steps:
        rows = [len(ids) for ids in parts]
        model.zero_grad()
        mean = 0
        for ids, n in zip(parts, rows, strict=True):
            logits = model(ids)[:, :-1]
            part = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).mean() * n / sum(rows)
            part.backward()
            mean += part.detach()
        norm = sum((p.grad**2).sum() for p in model.parameters()).sqrt()
        if norm > max_norm:
            for p in model.parameters():
                p.grad *= max_norm / norm
        optimizer.step()
        losses.append(mean)
    return losses


@train_steps.right
def _(start, steps, max_norm):
    model, optimizer = start()

    def step(ids):
        loss = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return [step(torch.cat(parts)) for parts in steps]


@train_steps.right
def _(start, steps, max_norm):
    model, optimizer = start()
    weights, losses = list(model.parameters()), []
    for parts in steps:
        loss = sum(nn.CrossEntropyLoss(reduction="sum")(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()) for ids in parts)
        loss = loss / sum(ids[:, 1:].numel() for ids in parts)
        for p, grad in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            p.grad = grad
        torch.nn.utils.clip_grad_norm_(weights, max_norm)
        optimizer.step()
        losses += [loss.item()]
    return losses


def steps_with(start, steps, max_norm, *, before=None, share=None, after_part=None, clip=None, step=True, shift=1):
    """The reference with one thing spoiled, for the mistakes below."""
    model, optimizer = start()
    losses = []
    for parts in steps:
        (before or nn.Module.zero_grad)(model)
        count, total = sum(ids[:, shift:].numel() for ids in parts), 0.0
        for ids in parts:
            logits, targets = model(ids[:, : ids.shape[1] - shift]), ids[:, shift:]
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()) * (share or of_tokens)(targets.numel(), count, parts)
            loss.backward()
            total += loss.item()
            if after_part:
                after_part(model, optimizer)
        (clip or nn.utils.clip_grad_norm_)(model.parameters(), max_norm)
        if step:
            optimizer.step()
        losses.append(total)
    return losses


def of_tokens(n, count, parts):
    """One part's share of the gradient: its tokens over all."""
    return n / count


def nothing(*_):
    """In the place of a step that is left out."""
    pass


@train_steps.mistake("The gradients of the step before are still there: backward() adds. Take them away once a step.")
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, before=nothing)


@train_steps.mistake("The gradients are taken away before every part, so only the last part counts.")
def _(start, steps, max_norm):
    model, optimizer = start()
    losses = []
    for parts in steps:
        count, total = sum(ids[:, 1:].numel() for ids in parts), 0.0
        for ids in parts:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="sum") / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        losses.append(total)
    return losses


@train_steps.mistake("The parts' means count alike. A part with more rows has more predictions, and weighs more in the mean over all of them.")
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, share=lambda n, count, parts: 1 / len(parts))


@train_steps.mistake("The parts' means are added up. With two parts that is about twice the loss, and twice the gradient.")
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, share=lambda n, count, parts: 1)


@train_steps.mistake("A sum over all predictions. The mean of the step is asked for.")
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, share=lambda n, count, parts: n)


@train_steps.mistake("Clipped after every part. The norm is that of the whole step's gradient: clip once, when all the parts are in.")
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, after_part=lambda model, _: nn.utils.clip_grad_norm_(model.parameters(), max_norm),
                      clip=nothing)


@train_steps.mistake("The optimizer steps after every part. In one batch there would be one step.")
def _(start, steps, max_norm):
    def at_once(model, optimizer):
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad()

    return steps_with(start, steps, max_norm, after_part=at_once, clip=nothing, step=False)


@train_steps.mistake("The gradient is not clipped (or only after the step, when it is too late).")
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, clip=nothing)


@train_steps.mistake("Each tensor is clipped by its own norm. max_norm bounds the norm of all of them together.")
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, clip=lambda ps, most: [nn.utils.clip_grad_norm_([p], most) for p in ps])


@train_steps.mistake("Each number is clipped by itself, which turns the gradient. max_norm bounds its length: clip_grad_norm_.")
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, clip=nn.utils.clip_grad_value_)


@train_steps.mistake("Short gradients are made longer. Only those longer than max_norm are scaled.")
def _(start, steps, max_norm):
    def scale(parameters, most):
        parameters = list(parameters)
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        for p in parameters:
            p.grad *= most / norm

    return steps_with(start, steps, max_norm, clip=scale)


STILL = ("The weights are the same in every step: optimizer.step() is missing, or start() is called for every step (it is called once), "
         "or the gradients are taken away before the step is taken.")


@train_steps.mistake(STILL)
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, step=False)


@train_steps.mistake(STILL)
def _(start, steps, max_norm):
    return [steps_with(start, [parts], max_norm)[0] for parts in steps]


@train_steps.mistake(STILL)
def _(start, steps, max_norm):
    def zero(parameters, most):
        for p in parameters:
            p.grad = None

    return steps_with(start, steps, max_norm, clip=zero)


def scaled(measure):
    """A clip that scales all gradients by max_norm / measure(gradients), where that is below 1; for the mistakes below."""

    def clip(parameters, most):
        parameters = list(parameters)
        share = min(1.0, (most / measure([p.grad for p in parameters])).item())
        for p in parameters:
            p.grad *= share

    return clip


@train_steps.mistake("The root is missing: the length of a gradient is the root of the sum of its squares.")
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, clip=scaled(lambda grads: sum((g**2).sum() for g in grads)))


@train_steps.mistake("The tensors' lengths are added up. The length of all together is the root of the sum of all squares.")
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, clip=scaled(lambda grads: sum(g.norm() for g in grads)))


@train_steps.mistake("Measured by the largest number in the gradient. Its length is the root of the sum of all squares, clip_grad_norm_'s default.")
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, clip=scaled(lambda grads: max(g.abs().max() for g in grads)))


@train_steps.mistake("It clips at 1.0, whatever max_norm is.")
def _(start, steps, max_norm):
    return steps_with(start, steps, 1.0)


@train_steps.mistake("It trains on one part of each step and forgets the others. Every part belongs to the step.")
def _(start, steps, max_norm):
    return steps_with(start, [parts[-1:] for parts in steps], max_norm)


@train_steps.mistake("It trains on one part of each step and forgets the others. Every part belongs to the step.")
def _(start, steps, max_norm):
    return steps_with(start, [parts[:1] for parts in steps], max_norm)


@train_steps.mistake("The weights are right, but the loss is a mean of the parts' means. Weigh it as the gradient: a larger part counts for more.")
def _(start, steps, max_norm):
    model, optimizer = start()
    losses = []
    for parts in steps:
        optimizer.zero_grad()
        count, means = sum(ids[:, 1:].numel() for ids in parts), []
        for ids in parts:
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            (loss * ids[:, 1:].numel() / count).backward()
            means.append(loss.item())
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        losses.append(sum(means) / len(means))
    return losses


@train_steps.mistake("The weights are right, but what is returned is the sum over the predictions. The mean is asked for.")
def _(start, steps, max_norm):
    losses = steps_with(start, steps, max_norm)
    return [loss * sum(ids[:, 1:].numel() for ids in parts) for loss, parts in zip(losses, steps, strict=True)]


@train_steps.mistake("Each token is asked for itself. The logits at place t bet on the token at t + 1.")
def _(start, steps, max_norm):
    return steps_with(start, steps, max_norm, shift=0)


@train_steps.mistake("These are the losses after the update. Each step's loss is the one its gradient came from.")
def _(start, steps, max_norm):
    return steps_with(start, [parts for step in steps for parts in (step, step)], max_norm)[1::2]


@train_steps.mistake("These are the losses after the update. Each step's loss is the one its gradient came from.")
def _(start, steps, max_norm):
    model, optimizer = start()
    losses = []

    def loss(parts):
        ids = torch.cat(parts)
        return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    for parts in steps:
        optimizer.zero_grad()
        loss(parts).backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        losses.append(loss(parts).item())
    return losses


@train_steps.mistake("The loss of each step's last part. Every part belongs to the mean.")
def _(start, steps, max_norm):
    model, optimizer = start()
    losses = []
    for parts in steps:
        optimizer.zero_grad()
        count = sum(ids[:, 1:].numel() for ids in parts)
        for ids in parts:
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            (loss * ids[:, 1:].numel() / count).backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


@train_steps.mistake("One loss per part. One per step is asked for, the mean over all its predictions.")
def _(start, steps, max_norm):
    model, optimizer = start()
    losses = []
    for parts in steps:
        optimizer.zero_grad()
        count = sum(ids[:, 1:].numel() for ids in parts)
        for ids in parts:
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            (loss * ids[:, 1:].numel() / count).backward()
            losses.append(loss.item())
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
    return losses


# --- a sampler of planted facts -------------------------------------------------------------------------------------------


def plant_draws():
    """(filler, answers, distances, ask): one row; rows with distances of their own, among them the nearest and the farthest."""
    g = torch.Generator().manual_seed(11)
    cases = [(torch.tensor([[17, 18, 19, 20, 21]]), torch.tensor([3]), torch.tensor([2]), 16)]
    for T, ask, distances in ((4, 9, [1, 2]), (7, 16, [5, 1, 6]), (6, 12, [2, 4, 5, 1]), (9, 16, [7, 2, 8, 1, 5])):
        B = len(distances)
        filler, answers = torch.randint(ask + 1, 30, (B, T), generator=g), torch.randperm(ask, generator=g)[:B]
        cases.append((filler, answers, torch.tensor(distances), ask))
    return cases


plant = Exercise(
    "plant",
    cases=plant_draws,
    hints=[
        "The question stands at place T - 1, so the fact stands at place T - 1 - distance.",
        "Each row has a place of its own. ids[rows, places] = answers with rows = torch.arange(B) writes one in each row.",
        "ids = torch.cat((filler, answers[:, None]), dim=1) is a copy, and has the answers in its last column already.",
    ],
)


@plant.reference
def _(filler, answers, distances, ask):
    B, T = filler.shape
    ids = torch.cat((filler, answers[:, None]), dim=1)  # (B, T + 1): the answer is the last column
    ids[torch.arange(B), T - 1 - distances] = answers
    ids[:, T - 1] = ask
    weights = torch.zeros(B, T + 1)
    weights[:, T] = 1
    return ids, weights


@plant.right
def _(filler, answers, distances, ask):
    rows = []
    for row, answer, distance in zip(filler.tolist(), answers.tolist(), distances.tolist(), strict=True):
        row = [*row[:-1], ask, answer]
        row[-2 - distance] = answer
        rows.append(row)
    return torch.tensor(rows), torch.tensor([[0.0] * (len(row) - 1) + [1.0] for row in rows])


@plant.right
def _(filler, answers, distances, ask):
    B, T = filler.shape
    back = T - 1 - torch.arange(T + 1)[None]  # how far before the question; the answer is at -1
    ids = F.pad(filler, (0, 1))
    ids = torch.where((back == distances[:, None]) | (back == -1), answers[:, None], ids)
    return torch.where(back == 0, ask, ids), (back == -1).float().expand(B, T + 1)


@plant.right
def _(filler, answers, distances, ask):
    B, T = filler.shape
    ids = filler.clone().scatter(1, (T - 1 - distances)[:, None], answers[:, None])
    ids[:, -1] = ask
    return [torch.hstack((ids, answers.unsqueeze(1))), F.one_hot(torch.full((B,), T), T + 1).float()]


def planted(filler, answers, distances, ask, *, at=0, question=True, answer=None, weights=None):
    """The reference with one thing spoiled, for the mistakes below."""
    B, T = filler.shape
    ids = torch.cat((filler, answers[:, None]), dim=1)
    ids[torch.arange(B), (T - 1 - distances + at).clamp(0, T)] = answers
    if question:
        ids[:, T - 1] = ask
    if answer is not None:
        ids[:, T] = answer
    w = torch.zeros(B, T + 1)
    w[:, T] = 1
    return ids, w if weights is None else weights(w)


@plant.mistake("One too near: the question is at place T - 1, so the fact is at T - 1 - distance.")
def _(filler, answers, distances, ask):
    return planted(filler, answers, distances, ask, at=1)


@plant.mistake("One too far: the question is at place T - 1, so the fact is at T - 1 - distance.")
def _(filler, answers, distances, ask):
    return planted(filler, answers, distances, ask, at=-1)


@plant.mistake("One too far: the question is at place T - 1, so the fact is at T - 1 - distance.")
def _(filler, answers, distances, ask):
    ids, weights = planted(filler, answers, distances, ask, question=False)
    B, T = filler.shape
    ids = torch.cat((filler, answers[:, None]), dim=1)
    ids[torch.arange(B), T - 2 - distances] = answers  # -1 is the last column for the farthest
    ids[:, T - 1] = ask
    return ids, weights


@plant.mistake("The distance is counted from the beginning of the row. It is counted back from the question.")
def _(filler, answers, distances, ask):
    return planted(filler, answers, filler.shape[1] - 1 - distances, ask)


@plant.mistake("All rows have the first row's distance. Each row has one of its own.")
def _(filler, answers, distances, ask):
    return planted(filler, answers, distances[:1].expand(len(answers)), ask)


@plant.mistake("All rows have the first row's animal. Each row has one of its own.")
def _(filler, answers, distances, ask):
    return planted(filler, answers[:1].expand(len(answers)), distances, ask)


@plant.mistake("The question is put behind the filler, so the row is one too long. It takes the place of the filler's last token, T - 1.")
def _(filler, answers, distances, ask):
    return planted(F.pad(filler, (0, 1), value=ask), answers, distances, ask)


@plant.mistake("The question is one place too early: `ask` is at place T - 1 of the filler's T, and only the answer is behind it.")
def _(filler, answers, distances, ask):
    ids, weights = planted(filler, answers, distances, ask, question=False)
    ids[:, -3] = ask
    return ids, weights


@plant.mistake("The question and the answer have changed places: `ask` at T - 1, the answer at T.")
def _(filler, answers, distances, ask):
    ids, weights = planted(filler, answers, distances, ask)
    return torch.cat((ids[:, :-2], ids[:, -1:], ids[:, -2:-1]), dim=1), weights


@plant.mistake("`ask` is an argument: it is 16 in the first case only.")
def _(filler, answers, distances, ask):
    return planted(filler, answers, distances, 16)


EVERYWHERE = "ids[:, places] writes into every row at every place. With rows = torch.arange(B), ids[rows, places] writes one in each."


@plant.mistake(EVERYWHERE)
def _(filler, answers, distances, ask):
    ids, weights = planted(filler, answers, distances, ask)
    for place in (filler.shape[1] - 1 - distances).tolist():
        ids[:, place] = answers
    return ids, weights


@plant.mistake(EVERYWHERE)
def _(filler, answers, distances, ask):
    B, T = filler.shape
    ids, weights = planted(filler, answers, distances, ask)
    ids[:, T - 1 - distances] = answers
    return ids, weights


@plant.mistake("There is no question: place T - 1 holds `ask`, and the answer stands behind it.")
def _(filler, answers, distances, ask):
    return planted(filler, answers, distances, ask, question=False)


@plant.mistake("There is no fact in the row: the answer also stands `distance` places before the question.")
def _(filler, answers, distances, ask):
    B, T = filler.shape
    ids = torch.cat((filler, answers[:, None]), dim=1)
    ids[:, T - 1] = ask
    return ids, planted(filler, answers, distances, ask)[1]


@plant.mistake("The answer is missing: a last column with the answers, which the model is to predict.")
def _(filler, answers, distances, ask):
    ids, weights = planted(filler, answers, distances, ask)
    return ids[:, :-1], weights[:, 1:]


@plant.mistake("The answer is missing: a last column with the answers, which the model is to predict.")
def _(filler, answers, distances, ask):
    ids, weights = planted(filler, answers, distances, ask)
    return ids[:, :-1], weights


@plant.mistake("The question and the answer took the places of filler, so the row is one too short: (B, T + 1) is asked for.")
def _(filler, answers, distances, ask):
    ids, weights = planted(filler[:, :-1], answers, (distances - 1).clamp(min=1), ask)
    return ids, weights


@plant.mistake("Only the last token can be known; the filler is noise. Weight 1 in the last column, 0 everywhere else.")
def _(filler, answers, distances, ask):
    return planted(filler, answers, distances, ask, weights=torch.ones_like)


@plant.mistake("The weight stands on the question. It belongs to the token that is predicted, which is the last one.")
def _(filler, answers, distances, ask):
    return planted(filler, answers, distances, ask, weights=lambda w: w.roll(-1, 1))


@plant.mistake("The told animal has a weight as well. Nobody can predict that one: weight 1 in the last column, 0 everywhere else.")
def _(filler, answers, distances, ask):
    def both(w):
        w[torch.arange(len(w)), w.shape[1] - 2 - distances] = 1
        return w

    return planted(filler, answers, distances, ask, weights=both)


@plant.mistake("The weights are divided by the number of rows. Each row's last weight is 1; the loss does the dividing.")
def _(filler, answers, distances, ask):
    return planted(filler, answers, distances, ask, weights=lambda w: w / len(w))


@plant.mistake("The order: ids first, then weights.")
def _(filler, answers, distances, ask):
    return planted(filler, answers, distances, ask)[::-1]


@plant.mistake("The weights are whole numbers. They are multiplied with losses: float32, as torch.zeros(B, T + 1) makes.")
def _(filler, answers, distances, ask):
    return planted(filler, answers, distances, ask, weights=lambda w: w.long())


@plant.mistake("It writes into the filler that it was given. Work on a copy: filler.clone().")
def _(filler, answers, distances, ask):
    filler[torch.arange(len(filler)), filler.shape[1] - 1 - distances] = answers
    filler[:, -1] = ask
    return planted(filler, answers, distances, ask)


@plant.mistake("Only the ids. The weights are asked for as well: return ids, weights.")
def _(filler, answers, distances, ask):
    return planted(filler, answers, distances, ask)[0]
