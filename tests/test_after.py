"""Chapter 14: its pictures show what the cache does, any distances can be tried, and its numbers are those of the page."""

import json
from dataclasses import replace
from itertools import product

import pytest
import torch

from minimistral import counting, doctor, load_tiny, reach, sinks
from minimistral.cache import RollingBuffer
from minimistral.checkpoint import load
from minimistral.exercises import after as ex
from minimistral.tiny import stories, twins
from minimistral.widgets import after

# --- the picture of a shared prompt ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("window, tokens", [(1, 1), (4, 3), (4, 4), (4, 9), (5, 23)])
def test_held_is_read_from_a_real_ring(window, tokens):
    expected = RollingBuffer.held(torch.arange(window), tokens, window).tolist()
    assert after.held(window, tokens) == [at if at >= 0 else -1 for at in expected]


def test_a_growing_cache_holds_all():
    assert after.held(None, 70)[:70] == list(range(70))


@pytest.mark.parametrize("prompt, answers, window, page", [
    (8, (6, 3), 8, 4), (4, (9, 5), 6, 2), (6, (1, 1), 4, 3), (3, (2, 7), 8, 1),
])  # fmt: skip
def test_the_picture_says_what_is_shared_and_what_is_gone(prompt, answers, window, page):
    state = after.Shared(prompt, answers, window, page)
    for whose, n in zip("AB", answers, strict=True):
        read = [at for number in state.list_of(whose) for at in state.pages()[number][1]]
        assert read == list(range(prompt + n))  # each answer's pages are its whole text, in order
    assert [n for n in state.list_of("A") if n in state.list_of("B")] == list(range(prompt // page))
    end = prompt + answers[0]
    there = set(range(max(0, end - window), end))
    needed = [j for j in range(prompt) if prompt - j < window]
    assert state.needed() == needed and state.lost() == [j for j in needed if j not in there]
    assert len(state.ring()) == window


def test_the_picture_and_its_twin():
    picture = after.shared()
    assert "Gone: 1 to 5" in picture.text and "answer B reads pages 0, 1, 4" in picture.text
    assert picture.png.startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="prompt is 7 and page 4; expected a prompt of whole pages"):
        after.shared(prompt=7)


@pytest.mark.parametrize("given, words", [
    ({"page": 0}, "page is 0: expected a whole number"), ({"prompt": "8"}, "prompt is '8'"), ({"prompt": 8.0}, "prompt is 8.0"),
    ({"window": None}, "window is None"), ({"answers": 6}, "answers is 6; expected how many tokens A and B write"),
    ({"answers": (6,)}, r"answers is \(6,\)"), ({"answers": (2.5, 3)}, "an answer is 2.5"),
    ({"answers": (0, 3)}, "an answer is 0"),
])  # fmt: skip
def test_a_picture_of_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        after.shared(**given)


def test_where_heads_look_first_is_said():
    picture = after.first_looks(torch.tensor([[0.05, 0.3], [0.11, 0.1]]), 0.05)
    assert "layer 0:   5%  30%" in picture.text and "heads with more than twice that: 2 of 4" in picture.text


# --- distances in the cache ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T, window, n", [(7, 3, 2), (9, 1, 0), (9, 4, 20), (13, 5, 1)])
def test_the_exercises_distances_are_seen_by_the_same_rule(T, window, n):
    distances = ex.cache_distances.answer(T, window, n)
    assert torch.equal(distances >= 0, sinks.visible(T, window, n))
    assert distances.max() < window + n and (distances.diagonal() == 0).all()


# --- the pattern exercise's judge -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers, tokens", [(1, 4), (2, 3), (2, 5), (3, 3), (3, 1), (4, 2)])
def test_the_judge_accepts_exactly_the_patterns_that_are_best(layers, tokens):
    for slots in range(layers, layers * tokens + 2):
        found = {}  # of every list of windows that fits: its reach, and its narrowest window
        for windows in product([None, *range(1, slots + 1)], repeat=layers):
            if sum(min(W or tokens, tokens) for W in windows) <= slots:
                far = float("inf") if None in windows else sum(W - 1 for W in windows)
                found[windows] = far, min(W or float("inf") for W in windows)
            else:
                assert "keeps" in ex.fault(windows, slots, layers, tokens)[0]
        best = max(found.values())
        for windows, what in found.items():
            assert (ex.fault(windows, slots, layers, tokens) is None) == (what == best), (windows, slots)


def none_only_where_exactly_full(slots, layers, tokens):
    """Right but where all layers may be None, and there are more slots than that takes."""
    if slots == layers * tokens:
        return [None] * layers
    return ex.pattern.answer(slots, layers, tokens) if slots < layers * tokens else [None, *[tokens + 1] * (layers - 1)]


def divides_by_zero(slots, layers, tokens):
    """Right but for texts of one token."""
    return ex.pattern.answer(slots, layers, tokens) if (slots - layers) // (tokens - 1) >= 0 else None


def one_layer(slots, layers, tokens):
    return [slots] if layers == 1 and slots != tokens else ex.pattern.answer(slots, layers, tokens)


@pytest.mark.parametrize("wrong", [none_only_where_exactly_full, divides_by_zero, one_layer])
def test_a_pattern_wrong_in_a_corner_is_found(wrong, capsys):
    ex.pattern.check(wrong)
    assert "calls" not in (said := capsys.readouterr().out) and said.startswith("✗ pattern: ")


def test_keys_of_rings_that_differ_are_counted_where_no_layer_sees_everything(capsys):
    ex.kept.check(lambda windows, tokens: sum(min(W or tokens, tokens) for W in windows) if None in windows
                  else len(windows) * min(max(windows), tokens))  # fmt: skip
    assert "expected 12, got 15" in capsys.readouterr().out


@pytest.mark.parametrize("change, words", [
    (float, "/ makes floats"), (lambda W: "None" if W is None else W, "no text"),
    (lambda W: float("inf") if W is None else W, "not infinity"),
    (lambda W: [], "no text, no list"), (lambda W: torch.zeros(2), "no text, no list"),
])  # fmt: skip
def test_an_entry_of_a_wrong_type_is_what_is_named(change, words, capsys):
    """Not a mistake that happens to give the same numbers: 3.0 == 3."""
    ex.pattern.check(lambda *case: [W if change is float and W is None else change(W) for W in ex.pattern.rights[0](*case)])
    ex.pattern.why()
    said = capsys.readouterr().out
    assert "an entry is no whole number" in said and words in said and "perhaps" not in said


@pytest.mark.parametrize("windows, words", [
    (None, "expected a list"), ([3], "expected 2 windows"), ([2.5, 2], "no whole number"), ([0, 5], "below 1"),
    ([True, 4], None), (torch.tensor([2, 3]), None), ((3, 2), None), ([9, 9], "keeps 18 keys"), ("ab", "expected a list"),
    ([[1], 2], "no whole number"), ([1, 4], "could be 2"), ([2, 2], "reaches 3 places back"),
])  # fmt: skip
def test_the_judge_says_what_is_wrong(windows, words):
    found = ex.fault(windows, 5, 2, 9)
    assert words is None or words in found[0]


# --- the numbers of the page ----------------------------------------------------------------------------------------------


def test_a_cache_of_4_gib_and_pairs_as_the_larger_half_from_53k():
    v01, v02 = counting.VERSIONS["v0.1"], counting.VERSIONS["v0.2"]
    sizes = [doctor.cache_bytes(config, 32_768) / 2**30 for config in (replace(v02, n_kv_heads=32), v02, v01)]
    assert sizes == [16, 4, 0.5]
    share = {}
    for N in (32_768, 52_000, 55_000):
        parts = counting.flops(v02, N, last_only=True)
        share[N] = parts["attention, pairs"] / sum(parts.values())
    assert share[32_768] < 0.4 and share[52_000] < 0.5 < share[55_000]


def test_in_the_recorded_hybrids_there_is_no_cliff():
    runs = reach.recorded("hybrid")["runs"]
    poor = [run for run in runs if min(right / of for _, right, of in run["counts"]) < 0.95]
    assert len(runs) >= 8 and len(poor) == 1
    shares = {d: right / of for d, right, of in poor[0]["counts"]}
    assert 30 < min(shares, key=shares.get) < 60 and shares[max(shares)] > 0.95  # weakest in the middle, sure at the far end
    for windows in ([16, 16, 16, None], [None, 16, 16, 16]):
        assert 0.25 < ex.kept.answer(windows, 32_768) / (4 * 32_768) < 0.25045


def stories_in_rows(tokenizer):
    texts = [ids for text in stories.corpus(60, seed=10**9) if len(ids := tokenizer.encode(text, bos=True)) >= 129]
    return torch.tensor([ids[:129] for ids in texts[:16]])


def tried(model, rows, *parts):
    """The mean loss in each part of the rows, for a window of 16 alone, of 20, with sinks, and as the model was trained."""
    ways = {(W, n): sinks.in_text(128, W, n) for W, n in ((16, 0), (20, 0), (16, 1), (16, 4))}
    ways |= {"own": sinks.in_text(128, model.config.sliding_window), "cache": ex.cache_distances.answer(128, 16, 4)}
    losses = {way: sinks.losses(model, rows, distances) for way, distances in ways.items()}
    return [{way: loss[:, start:end].mean().item() for way, loss in losses.items()} for start, end in parts]


def test_what_sinks_do_to_a_model_trained_with_a_window():
    model, tokenizer = load_tiny()
    rows = stories_in_rows(tokenizer)
    near, beyond = tried(model, rows, (16, 64), (64, 128))
    assert near["own"] < near[16, 4] < near[16, 1] < near[20, 0] < near[16, 0]
    assert beyond["own"] < beyond[20, 0] < beyond[16, 0] < beyond[16, 1] / 2 and beyond[16, 1] < beyond["cache"]
    assert beyond[16, 4] > 2 * beyond[16, 0] and near[20, 0] < near["cache"] < near[16, 0]  # counted in the cache: little help
    shares, even = sinks.first_share(model, rows[:, :128]), sum(1 / n for n in range(2, 65)) / 63
    assert (shares > 2 * even).sum() == 20 and (shares[1::2] > 2 * even).sum() == 15 and 0.4 < shares.max() < 0.5
    assert shares[1:3, [0, 4]].max() < even  # the heads that were shown where to look


def test_sinks_help_the_twin_that_was_trained_without_a_window_and_disturb_the_other():
    rows = stories_in_rows(load_tiny()[1])
    _, near, beyond = tried(twins.twin(32), rows, (16, 32), (32, 64), (64, 128))
    assert near[16, 4] > near[16, 1] > near[16, 0] + 0.3 and beyond[16, 4] > beyond[16, 1] > beyond[16, 0] + 0.3
    assert near["cache"] < near[16, 1] and beyond[16, 0] < beyond["cache"] < beyond[16, 1]  # counted in the cache: milder
    first, near, beyond = tried(twins.twin(None), rows, (16, 32), (32, 64), (64, 128))
    assert first[16, 1] < first["own"] + 0.03 < first[20, 0] < first[16, 0]
    assert near[16, 4] < near[16, 1] < near[20, 0] < near[16, 0] < near["cache"]
    assert beyond[20, 0] < beyond[16, 4] < beyond[16, 1] < beyond[16, 0] < beyond["cache"]


def test_the_twins_differ_in_their_window_alone():
    a, b = (twins.twin(window) for window in twins.WINDOWS)
    assert (a.config.sliding_window, b.config.sliding_window) == (32, None)
    assert replace(a.config, sliding_window=None) == b.config == twins.CONFIG
    with pytest.raises(ValueError, match="window is 16: the twins were trained with 32 and None"):
        twins.twin(16)


def test_a_twin_is_made_by_one_command(tmp_path):
    twins.main(["--out", str(tmp_path), "--steps", "2"])
    made = load(tmp_path / "window-None", device="cpu")[0]
    assert made.config == twins.CONFIG
    assert json.loads((tmp_path / "window-32" / "training.json").read_text(encoding="utf-8"))["steps"] == 2


def test_the_exercises_agree_with_the_library():
    for windows in ((3, None), (4, 2, 7), (1, 1)):
        config = reach.cliff.config(len(windows), windows)
        assert ex.how_far.answer(list(windows)) == reach.exact_reach(config)
