"""Scores and how sure they are, each against a slow judge that counts everything."""

import itertools
import math
import random
from collections import Counter

import pytest
import torch
from helpers import small_model

import minimistral as mm
from minimistral import evaluation as ev
from minimistral.exercises import evaluation as ex


def test_loglikelihoods_are_sums_over_single_tokens_past_the_window():
    model = small_model(window=5)
    rng = random.Random(0)
    V = model.config.vocab_size
    pairs = [([rng.randrange(V) for _ in range(rng.randint(1, 14))], [rng.randrange(V) for _ in range(rng.randint(1, 6))])
             for _ in range(11)]
    greedy = mm.generate(model, [pairs[3][0]], max_new_tokens=4, eos_id=None).tokens[0]
    pairs.append((pairs[3][0], greedy))
    for batch_size in (1, 4, 100):
        got = ev.loglikelihoods(model, pairs, batch_size)
        for (context, continuation), (score, would) in zip(pairs, got, strict=True):
            ids, expected, likeliest = list(context), 0.0, True
            for token in continuation:  # one at a time, everything read again
                logits = model(torch.tensor([ids]))[0, -1]
                expected += torch.log_softmax(logits.double(), -1)[token].item()
                likeliest &= logits.argmax().item() == token
                ids.append(token)
            assert score == pytest.approx(expected, abs=1e-4) and would == likeliest
    assert got[-1][1]


def test_choose_takes_the_likeliest_and_can_weigh_by_length():
    model, tokenizer = mm.load_tiny()
    question = "One sunny day in spring, Tom and Ben were in the"
    options = ["kitchen", "xylophone quartet of the town", "moon"]
    best, scores = ev.choose(model, tokenizer, question, options)
    assert best == 0 and scores[0] == max(scores)
    before = tokenizer.encode(question, bos=True)
    for option, score in zip(options, scores, strict=True):
        whole = tokenizer.encode(f"{question} {option}", bos=True)
        logprobs = torch.log_softmax(model(torch.tensor([whole[:-1]]))[0].double(), -1)
        assert score == pytest.approx(sum(logprobs[n - 1, whole[n]].item() for n in range(len(before), len(whole))), abs=1e-3)
    _, weighed = ev.choose(model, tokenizer, question, options, per_letter=True)
    assert weighed == pytest.approx([s / len(o) for s, o in zip(scores, options, strict=True)])
    with pytest.raises(ValueError, match="there are 1 options; expected at least two"):
        ev.choose(model, tokenizer, question, ["one"])


def test_the_small_model_knows_its_own_stories_and_takes_a_swap_in_other_words_for_none():
    model, tokenizer = mm.load_tiny()
    kinds = []
    for questions in (ex.questions(), ex.trades(swapped=False), ex.trades(swapped=True)):
        assert all({q.right, q.decoy} < set(q.options) and q.right != q.decoy and q.right in q.story for q in questions)
        chosen = [q.options[ev.choose(model, tokenizer, q.story, q.options)[0]] for q in questions]
        kinds.append([sum(word == want(q) for word, q in zip(chosen, questions, strict=True))
                      for want in (lambda q: q.right, lambda q: q.decoy)])
    (own, _), (home, _), (swapped, before) = kinds
    assert own > 54 and home > 50 and swapped < 6 and before > 50
    for at_home, after in zip(ex.trades(False), ex.trades(True), strict=True):  # one sentence apart, and the answer turned round
        assert at_home.story.replace("went home", "swapped") == after.story
        assert (at_home.right, at_home.decoy, at_home.options) == (after.decoy, after.right, after.options)


@pytest.mark.parametrize("pair", [([], [1]), ([1], [])])
def test_empty_pairs_are_refused(pair):
    with pytest.raises(ValueError, match="pair 1 has .* expected some of each"):
        ev.loglikelihoods(small_model(), [([1], [2]), pair])


@pytest.mark.parametrize(("n", "passed", "k"), [(n, p, k) for n in range(1, 8) for p in range(n + 1) for k in range(1, n + 1)])
def test_pass_at_k_counts_every_draw(n, passed, k):
    draws = list(itertools.combinations([True] * passed + [False] * (n - passed), k))
    assert ev.pass_at_k(n, passed, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


def naive_majority(answers, right, k):
    total = 0.0
    draws = list(itertools.combinations(answers, k))
    for draw in draws:
        counts = Counter(draw)
        top = [answer for answer, count in counts.items() if count == max(counts.values())]
        total += (right in top) / len(top)
    return total / len(draws)


@pytest.mark.parametrize("seed", range(40))
def test_majority_at_k_counts_every_draw(seed):
    rng = random.Random(seed)
    answers = [rng.choice("abcd"[: rng.randint(1, 4)]) for _ in range(rng.randint(1, 9))]
    for k in range(1, len(answers) + 1):
        assert ev.majority_at_k(answers, "a", k) == pytest.approx(naive_majority(answers, "a", k))


def test_what_cannot_be_drawn_is_refused():
    for n, passed, k in ((5, 6, 1), (5, -1, 1), (5, 2, 6), (5, 2, 0)):
        with pytest.raises(ValueError, match="expected 0 <= passed <= n and 1 <= k <= n"):
            ev.pass_at_k(n, passed, k)
    for k in (0, 4):
        with pytest.raises(ValueError, match="expected 1 <= k <= 3"):
            ev.majority_at_k(["1", "2", "2"], "2", k)


def test_an_interval_holds_what_it_promises():
    """The bounds are the rates at which `right` of n would lie z standard errors off; and they cover 95 % of drawn scores."""
    for right, n in ((0, 7), (3, 7), (50, 164), (164, 164)):
        for rate in ev.interval(right, n):
            if 0 < rate < 1:
                assert abs(right / n - rate) / math.sqrt(rate * (1 - rate) / n) == pytest.approx(1.96)
    truth, n, rng = 0.3, 164, random.Random(1)
    inside = 0
    for _ in range(2000):
        low, high = ev.interval(sum(rng.random() < truth for _ in range(n)), n)
        inside += low <= truth <= high
    assert 0.935 < inside / 2000 < 0.965
    assert ev.interval(0, 10)[0] == 0 and ev.interval(10, 10)[1] == 1


def test_the_difference_of_two_scores():
    """Newcombe's own example: 56 of 70 against 48 of 80 is 0.0524 to 0.3339."""
    assert ev.difference(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    low, high = ev.difference(50, 164, 51, 164)  # HumanEval, Mistral 7B against Code-Llama 7B
    assert low < 0 < high
    with pytest.raises(ValueError, match="n of at least 1"):
        ev.difference(1, 2, 0, 0)


@pytest.mark.parametrize(("text", "number"), [
    ("so he has 1,200.50 euros", "1200.5"), ("the answer is 42.", "42"), ("-7", "-7"), ("3 apples, then 10", "10"),
    ("none", None), ("It is 5.00", "5"), ("100", "100"),
])  # fmt: skip
def test_the_last_number(text, number):
    assert ev.last_number(text) == number


def test_exact_match_takes_numbers_and_words():
    assert ev.exact_match("He pays 3 times 6, so 18", "18") and not ev.exact_match("18, or rather 17", "18")
    assert ev.exact_match("  The  Teapot ", "the teapot") and not ev.exact_match("the teapots", "the teapot")
    assert not ev.exact_match("", "18") and not ev.exact_match("", "")
