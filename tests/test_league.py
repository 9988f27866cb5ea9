"""The league of patterns: what it refuses, what it counts, what it keeps."""

import json

import pytest
import torch

from minimistral import league
from minimistral.hybrid import cache_for
from minimistral.reach import cliff


@pytest.mark.parametrize("windows", [(None,) * 4, (32,) * 4, (None, 4, 4, 4), (100, 8, 8, 1)])
def test_bytes_are_those_of_the_cache_that_is_used(windows):
    config = cliff.config(4, windows)
    model, cache = league.train(windows, 1, 0, progress=False), cache_for(config)
    with torch.no_grad():
        model(torch.zeros(1, league.TOKENS, dtype=torch.int64), cache=cache)
    assert cache.n_bytes() == league.n_bytes(windows)


def test_the_budget_has_room_for_one_full_layer_and_little_beside_it():
    assert league.n_bytes((None,) * 4) == 512 * 256 and league.n_bytes((36,) * 4) == league.BUDGET
    assert league.checked([32] * 4, league.BUDGET) == (32,) * 4
    assert league.checked((5, 5, 6, None), league.BUDGET) and league.n_bytes((None, 6, 6, 6)) - league.BUDGET == 2 * 256
    over = league.n_bytes((None, 8, 8, 8)) - league.BUDGET
    with pytest.raises(league.LeagueError, match=rf"{over:,} more than the budget of 36,864: make a window narrower"):
        league.enter("eye", (None, 8, 8, 8))


@pytest.mark.parametrize("windows, words", [
    (None, "windows is None; expected a window, or None, for each of 4 layers"),
    ((4, 4, 4), r"windows is \(4, 4, 4\); expected"),
    ("4444", "windows is '4444'"),
    ((4, 4, 4, 0), r"sliding_window\[3\] is 0"),
    ((4, 4, 4, 2.5), r"sliding_window\[3\] is 2.5"),
    ((1, 1, 1, 1), "Every window is 1"),
])  # fmt: skip
def test_what_is_no_pattern_is_refused_before_any_training(windows, words, tmp_path, monkeypatch):
    monkeypatch.setattr(league, "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=words):
        league.enter("x", windows, file=tmp_path / "league.json")
    assert not (tmp_path / "league.json").exists()


def test_entries_are_kept_sorted_and_entered_again(tmp_path):
    file = tmp_path / "league.json"
    assert league.table(file) == "Nobody has entered a pattern yet."
    for name, windows in (("narrow", (2, 2, 2, 2)), ("wide", (120, 1, 2, 2))):
        entry = league.enter(name, windows, file=file, steps=3, n=4, progress=False)
        assert entry["bytes"] == league.n_bytes(windows) and 0 <= entry["recall"] <= 1
    league.enter("narrow", (3, 2, 2, 2), file=file, steps=3, n=4, progress=False)
    entries = league.read(file)
    assert [entry["name"] for entry in entries] == ["wide", "narrow"] and entries[1]["windows"] == (3, 2, 2, 2)
    for entry, recall in zip(entries, (0.2, 0.9), strict=True):
        entry["recall"] = recall
    file.write_text(json.dumps(entries))
    rows = league.table(file).splitlines()
    assert "narrow" in rows[1] and "wide" in rows[2] and "0.900" in rows[1]
    for entry in entries:
        entry["recall"] = 0.5
    file.write_text(json.dumps(entries))
    assert "narrow" in league.table(file).splitlines()[1], "of two with the same recall, the one with fewer bytes"


def test_a_file_that_is_no_table_is_left_alone(tmp_path):
    for number, text in enumerate(('{"a": 1}', "[1]", "not json", '[{"name": "x"}]')):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        with pytest.raises(league.LeagueError, match=f"{number}.json is no table of this league"):
            league.enter("x", (8, 8, 8, 8), file=file)
        assert file.read_text() == text


def test_nothing_is_known_from_beyond_the_sum_of_the_windows():
    """A fact one token beyond the reach leaves the answer as it is, one at its edge does not."""
    windows = (9, 5, 1, 1)
    reach = cliff.exact_reach(cliff.config(4, windows))
    assert reach == 12
    model = league.train(windows, 1, 0, progress=False)
    ids, _ = cliff.facts(1, 32, 40, distance=reach + 1)
    changed = ids.clone()
    changed[:, 40 - reach - 1] = (ids[:, 40 - reach - 1] + 1) % len(cliff.ANIMALS)
    with torch.no_grad():
        same = [model(x[:, :-1], last_only=True) for x in (ids, changed)]
        assert torch.equal(*same)
        near, _ = cliff.facts(1, 32, 40, distance=reach)
        other = near.clone()
        other[:, 40 - reach] = (near[:, 40 - reach] + 1) % len(cliff.ANIMALS)
        assert not torch.equal(model(near[:, :-1], last_only=True), model(other[:, :-1], last_only=True))
