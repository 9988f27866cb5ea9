"""Measuring a model on questions: how likely it finds each answer, whether it writes the right one, and how sure a score is.

    choose            multiple choice by log-likelihood (MMLU, HellaSwag)
    exact_match       the last number of an answer, or its text, against the right one (GSM8K)
    pass_at_k         some of k programs passes its tests (HumanEval, MBPP)
    majority_at_k     the answer given most often among k is right (GSM8K maj@8)
    interval          between which rates the true one lies, given `right` of `n`
    difference        the same for the difference of two models

`minimistral eval` runs public tasks with lm-evaluation-harness through `minimistral.harness`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable

import torch

from minimistral.model import Mistral
from minimistral.tokenizer import Tokenizer


@torch.no_grad()
def loglikelihoods(model: Mistral, pairs: Iterable[tuple[list[int], list[int]]], batch_size: int = 8) -> list[tuple[float, bool]]:
    """For each (context, continuation) of ids: the sum of log P(token | all before), in nats, and whether greedy would write it.

    Both need at least one id. Rows of like length share a batch; the order of the answers is that of the pairs.
    """
    pairs = [(list(context), list(continuation)) for context, continuation in pairs]
    for n, (context, continuation) in enumerate(pairs):
        if not context or not continuation:
            raise ValueError(
                f"pair {n} has {len(context)} ids of context and {len(continuation)} of continuation; expected some of each."
            )
    found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda n: -len(pairs[n][0]) - len(pairs[n][1]))
    device = next(model.parameters()).device
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        whole = [pairs[n][0] + pairs[n][1] for n in rows]
        lengths = torch.tensor([len(ids) - 1 for ids in whole], device=device)
        T = int(lengths.max())
        tokens = torch.tensor([ids[:-1] + [0] * (T + 1 - len(ids)) for ids in whole], device=device)
        logprobs = torch.log_softmax(model(tokens, lengths=lengths), dim=-1)
        for row, n in enumerate(rows):
            context, continuation = pairs[n]
            at = slice(len(context) - 1, len(whole[row]) - 1)
            answer = torch.tensor(continuation, device=device)
            each = logprobs[row, at].gather(-1, answer[:, None])[:, 0]
            found[n] = each.cpu().double().sum().item(), bool((logprobs[row, at].argmax(-1) == answer).all())
    return found


def choose(model: Mistral, tokenizer: Tokenizer, question: str, options: list[str],
           per_letter: bool = False) -> tuple[int, list[float]]:
    """Which option the model finds likeliest after the question: its index, and the log-likelihood of each in nats.

    per_letter divides by the option's length in bytes first, so that long answers are not at a disadvantage (acc_norm).
    """
    if len(options) < 2:
        raise ValueError(f"there are {len(options)} options; expected at least two to choose from.")
    before = tokenizer.encode(question, bos=True)
    after = [tokenizer.encode(f"{question} {option}", bos=True)[len(before) :] for option in options]
    scores = [score for score, _ in loglikelihoods(model, [(before, ids) for ids in after])]
    if per_letter:
        scores = [score / len(option.encode()) for score, option in zip(scores, options, strict=True)]
    return max(range(len(options)), key=scores.__getitem__), scores


def last_number(text: str) -> str | None:
    """The last number written in a text, without thousands' commas and trailing zeros: "so 1,200.50 euros" -> "1200.5"."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    if not numbers:
        return None
    number = numbers[-1].replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def exact_match(answer: str, right: str) -> bool:
    """Whether an answer ends in the right number or, where the right one is no number, is that text (case and spaces aside)."""
    if last_number(right) is not None and re.fullmatch(r"\s*-?[\d,.]+\s*", right):
        return last_number(answer) == last_number(right)
    return answer.split() != [] and " ".join(answer.lower().split()) == " ".join(right.lower().split())


def pass_at_k(n: int, passed: int, k: int) -> float:
    """The chance that at least one of k programs drawn from n passes, given that `passed` of the n do: 1 - C(n-p, k) / C(n, k).

    The tempting 1 - (1 - passed / n) ** k draws with replacement, and comes out too low. Source: Chen et al. 2021, section 2.1.
    """
    if not 0 <= passed <= n or not 1 <= k <= n:
        raise ValueError(f"n is {n}, passed {passed}, k {k}; expected 0 <= passed <= n and 1 <= k <= n.")
    return 1 - math.comb(n - passed, k) / math.comb(n, k)


def majority_at_k(answers: list[str], right: str, k: int) -> float:
    """The chance that, of k answers drawn from those given, `right` is the commonest; a tie counts as a share of it.

    Exact: the draws are counted by how often each answer comes up, one answer after the other, never listed.
    """
    n = len(answers)
    if not 1 <= k <= n:
        raise ValueError(f"k is {k} and there are {n} answers; expected 1 <= k <= {n}.")
    counts = Counter(answers)
    of_right = counts.pop(right, 0)
    total = 0.0
    for top in range(1, min(k, of_right) + 1):  # right comes up `top` times
        ways = {(k - top, 1): 1}  # (draws left, answers at the top) -> in how many ways
        for count in counts.values():
            more: Counter = Counter()
            for (left, tied), way in ways.items():
                for times in range(min(top, count, left) + 1):
                    more[left - times, tied + (times == top)] += way * math.comb(count, times)
            ways = more
        total += math.comb(of_right, top) * sum(way / tied for (left, tied), way in ways.items() if left == 0)
    return total / math.comb(n, k)


def interval(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Between which rates the true one lies (95 % at z = 1.96), when `right` of n came out right. Source: Wilson 1927."""
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"right is {right} of n = {n}; expected 0 <= right <= n and n of at least 1.")
    rate, w = right / n, z * z / n
    middle, half = rate + w / 2, z * math.sqrt(rate * (1 - rate) / n + w / (4 * n))
    return max(0.0, (middle - half) / (1 + w)), min(1.0, (middle + half) / (1 + w))


def difference(a: int, n: int, b: int, m: int, z: float = 1.96) -> tuple[float, float]:
    """Between which values rate a/n - rate b/m lies (95 %), for two models on independent questions. Source: Newcombe 1998.

    An interval that holds 0 says: this benchmark does not tell the two apart.
    """
    (low_p, high_p), (low_q, high_q) = interval(a, n, z), interval(b, m, z)
    p, q = a / n, b / m
    return p - q - math.hypot(p - low_p, high_q - q), p - q + math.hypot(high_p - p, q - low_q)
