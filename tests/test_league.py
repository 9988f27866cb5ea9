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


@pytest.mark.parametrize("text", [
    "{}", '""', "[" * 100_000, *(
        json.dumps([{"name": "x", "windows": [8] * 4, "bytes": 9, "recall": 0.5, "forgets": None, "budget": None} | change])
        for change in ({"name": None}, {"name": ["x"]}, {"windows": "8888"}, {"windows": [8]}, {"windows": [0] * 4},
                       {"forgets": [1]}, {"recall": float("nan")}, {"recall": "0.5"}, {"bytes": None})
    ),
], ids=range(12))  # fmt: skip
def test_a_damaged_table_is_refused_when_it_is_read(text, tmp_path):
    file = tmp_path / "league.json"
    file.write_text(text)
    with pytest.raises(league.LeagueError, match="is no table of this league"):
        league.table(file)


def test_a_table_without_a_budget_is_read(tmp_path):
    file = tmp_path / "league.json"
    file.write_text('[{"name": "x", "windows": [8, 8, 8, null], "bytes": 9, "recall": 0.5, "forgets": 7, "budget": null}]')
    assert "8, 8, 8, none" in league.table(file)


@pytest.mark.parametrize("given, words", [
    ({"name": None}, "name is None; expected a text in one line"), ({"name": b"x"}, "name is b"),
    ({"name": "a\nb"}, "name is"),
    ({"steps": 0}, "steps is 0: expected a whole number of at least 1"),
    ({"n": "4"}, "n is '4'"), ({"seed": None}, "seed is None"),
    ({"budget": "32768"}, "budget is '32768'; expected a number of bytes"), ({"budget": float("nan")}, "budget is nan"),
    ({"file": None}, "file is None; expected a path"), ({"file": "taken/league.json"}, "league.json"),
    ({"windows": (10**30, 1, 1, 1)}, "wider than any cache can be"),
])  # fmt: skip
def test_what_would_fail_after_the_training_is_refused_before(given, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(league, "train", lambda *_: pytest.fail("trained"))
    (tmp_path / "taken").write_text("a file, and no folder")
    with pytest.raises(ValueError, match=words):
        league.enter(**{"name": "x", "windows": (8, 8, 8, 8)} | given)


@pytest.mark.parametrize("windows", [5, None, (x for x in "1234")])
def test_bytes_of_what_is_no_pattern(windows):
    with pytest.raises(league.LeagueError, match="expected a window, or None, for each of 4 layers"):
        league.n_bytes(windows)


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
