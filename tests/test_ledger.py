"""Each claim's verdict follows from numbers that are computed here; the words of the betting slip say the same ones."""

import re

import pytest

import minimistral as mm
from minimistral import claims, counting, ledger

ROWS = ledger.rows()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.claim.id)
def test_every_claim_has_a_verdict_that_follows_from_its_lines(row):
    assert row.lines and row.verdict == row.claim.verdict
    held = [line.holds for line in row.lines]
    assert row.verdict == ("true" if all(held) else "imprecise" if any(held) else "wrong")


def test_the_ledger_is_the_betting_slip():
    assert [row.claim for row in ROWS] == list(claims.CLAIMS)


def test_the_parameters_are_those_of_a_model_built_without_weights():
    import torch

    with torch.device("meta"):
        model = mm.Mistral(counting.VERSIONS["v0.1"])
    assert sum(p.numel() for p in model.parameters()) == 7_241_732_096
    assert "7,241,732,096" in claims.find("parameters").because
    assert any(line.found == "7,241,732,096" for line in ROWS[0].lines)


@pytest.mark.parametrize(("id", "found"), [
    ("beats-13b", "11 of 12"), ("twice-at-16k", "2.286"), ("twice-at-16k", "1.27"), ("span-131k", "131,040"),
    ("per-parameter", "1.9"), ("cache-8x", "0.5"),
])  # fmt: skip
def test_a_number_told_is_the_number_computed(id, found):
    row = next(row for row in ROWS if row.claim.id == id)
    assert found in row.claim.because and any(found in line.found for line in row.lines)


def test_five_margins_may_be_chance():
    """Counted again with the plain formula for two independent shares."""
    close = [name for name, n in ledger.QUESTIONS.items()
             for p, q in [(ledger.TABLE_2[name]["Mistral 7B"] / 100, ledger.TABLE_2[name]["Llama 2 13B"] / 100)]
             if abs(p - q) < 1.96 * (p * (1 - p) / n + q * (1 - q) / n) ** 0.5]  # fmt: skip
    assert ledger.undecided() == close and len(close) == 5
    assert "Of the 12 margins 5" in claims.find("beats-13b").because
    lines = next(row for row in ROWS if row.claim.id == "beats-13b").lines
    assert lines[-1].found == "7"


def test_table_2_is_whole():
    assert ledger.TABLE_2.keys() == ledger.QUESTIONS.keys() and len(ledger.TABLE_2) == 12
    assert all(len(row) == 4 and all(0 < score < 100 for score in row.values()) for row in ledger.TABLE_2.values())
    n = ledger.QUESTIONS["HumanEval"]
    assert [round(ledger.TABLE_2["HumanEval"][m] / 100 * n) for m in ("Mistral 7B", "Code-Llama 7B")] == [50, 51]
    assert re.search(r"50 problems of 164 against 51", claims.find("near-code-llama").because)


def test_the_size_that_would_score_alike():
    """On the straight line between two points; and near the 23 billion that the paper draws."""
    points = {7: 10.0, 14: 20.0, 70: 40.0}
    assert ledger.equivalent_size(20.0, points) == 14 and ledger.equivalent_size(15.0, points) == pytest.approx(7 * 2**0.5)
    assert ledger.equivalent_size(60.1, ledger.LLAMA_MMLU) == pytest.approx(23, abs=1.5)
    for score in (9.9, 40.1):
        with pytest.raises(ValueError, match="the points reach from 10.0 to 40.0"):
            ledger.equivalent_size(score, points)
    assert {name: round(size / 7.0, 1) for name, size in ledger.EQUIVALENT.items()} == {
        "reasoning": 5.4, "MMLU": 3.3, "comprehension": 3.0, "knowledge": 1.9}  # fmt: skip


def test_a_number_that_parts_from_its_source_is_seen(monkeypatch):
    monkeypatch.setitem(ledger.TABLE_2, "NQ", ledger.TABLE_2["NQ"] | {"Mistral 7B": 29.1})
    row = next(row for row in ledger.rows() if row.claim.id == "beats-13b")
    assert row.lines[0].found == "12 of 12" and row.lines[0].holds
