"""The ledger: what was said of Mistral 7B, number by number, beside what we compute; the verdict follows from the two.

    for row in ledger.rows():
        print(row.claim.text, row.verdict)

A verdict is computed where it can be: from the config, from a recorded run, or from the paper's own Table 2. Where only a
document can decide (the licence), the row says which. Words and sources of the claims: minimistral/claims.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

from minimistral import claims, counting, roofline
from minimistral.evaluation import difference, interval

#: Paper, Table 2, in percent.
TABLE_2 = {
    "MMLU":       {"Llama 2 7B": 44.4, "Llama 2 13B": 55.6, "Code-Llama 7B": 36.9, "Mistral 7B": 60.1},
    "HellaSwag":  {"Llama 2 7B": 77.1, "Llama 2 13B": 80.7, "Code-Llama 7B": 62.9, "Mistral 7B": 81.3},
    "WinoGrande": {"Llama 2 7B": 69.5, "Llama 2 13B": 72.9, "Code-Llama 7B": 62.3, "Mistral 7B": 75.3},
    "PIQA":       {"Llama 2 7B": 77.9, "Llama 2 13B": 80.8, "Code-Llama 7B": 72.8, "Mistral 7B": 83.0},
    "ARC-e":      {"Llama 2 7B": 68.7, "Llama 2 13B": 75.2, "Code-Llama 7B": 59.4, "Mistral 7B": 80.0},
    "ARC-c":      {"Llama 2 7B": 43.2, "Llama 2 13B": 48.8, "Code-Llama 7B": 34.5, "Mistral 7B": 55.5},
    "NQ":         {"Llama 2 7B": 24.7, "Llama 2 13B": 29.0, "Code-Llama 7B": 11.0, "Mistral 7B": 28.8},
    "TriviaQA":   {"Llama 2 7B": 63.8, "Llama 2 13B": 69.6, "Code-Llama 7B": 34.9, "Mistral 7B": 69.9},
    "HumanEval":  {"Llama 2 7B": 11.6, "Llama 2 13B": 18.9, "Code-Llama 7B": 31.1, "Mistral 7B": 30.5},
    "MBPP":       {"Llama 2 7B": 26.1, "Llama 2 13B": 35.4, "Code-Llama 7B": 52.5, "Mistral 7B": 47.5},
    "MATH":       {"Llama 2 7B": 3.9, "Llama 2 13B": 6.0, "Code-Llama 7B": 5.2, "Mistral 7B": 13.1},
    "GSM8K":      {"Llama 2 7B": 16.0, "Llama 2 13B": 34.3, "Code-Llama 7B": 20.8, "Mistral 7B": 52.2},
}  # fmt: skip
#: Questions in the split that is usually scored, as the data sets' own pages say; the paper does not say which it used.
QUESTIONS = {"MMLU": 14042, "HellaSwag": 10042, "WinoGrande": 1267, "PIQA": 1838, "ARC-e": 2376, "ARC-c": 1172, "NQ": 3610,
             "TriviaQA": 11313, "HumanEval": 164, "MBPP": 500, "MATH": 5000, "GSM8K": 1319}  # fmt: skip
#: Paper, Figure 5: the size of a Llama 2 that would score alike, in billions of parameters.
EQUIVALENT = {"reasoning": 38, "MMLU": 23, "comprehension": 21, "knowledge": 13}
#: MMLU of the four Llama 2 (Touvron et al. 2023, Table 3; 7B and 13B as the Mistral paper measured them), by size in billions.
LLAMA_MMLU = {7: 44.4, 13: 55.6, 34: 62.6, 70: 68.9}


@dataclass(frozen=True)
class Line:
    """One number of a claim: as it was said, and as it is found."""

    what: str
    said: str
    found: str
    holds: bool


@dataclass(frozen=True)
class Row:
    """A claim, the numbers it is made of, and the verdict that follows from them."""

    claim: claims.Claim
    how: str  # "computed", "recorded", "Table 2", "Figure 5", "documents"
    lines: tuple[Line, ...]
    verdict: str  # that follows from the lines


def line(what: str, said: float, found: float, text: str = "{:,.6g}", within: float = 0.0) -> Line:
    """A number said and a number found; it holds where they differ by at most `within` (a share of the number said)."""
    return Line(what, text.format(said), text.format(found), abs(found - said) <= within * abs(said) + 1e-12)


def rows() -> list[Row]:
    """Every claim with its numbers, in the order of the betting slip."""
    return [Row(claim, how, tuple(lines), _verdict(lines)) for claim in claims.CLAIMS for how, lines in [CHECKS[claim.id]()]]


def _verdict(lines: list[Line]) -> str:
    """true where every line holds, wrong where none does, imprecise between."""
    held = sum(line.holds for line in lines)
    return "true" if held == len(lines) else "wrong" if not held else "imprecise"


def undecided(a: str = "Mistral 7B", b: str = "Llama 2 13B") -> list[str]:
    """The benchmarks of Table 2 that do not tell two models apart: the interval of their difference holds 0.

    As if each model had answered questions of its own. Both answered the same, which makes a difference surer than this, by how
    much only their single answers could tell; they were not published.
    """
    found = []
    for name, n in QUESTIONS.items():
        low, high = difference(round(TABLE_2[name][a] / 100 * n), n, round(TABLE_2[name][b] / 100 * n), n)
        if low <= 0 <= high:
            found.append(name)
    return found


def equivalent_size(score: float, by_size: dict[float, float]) -> float:
    """The size, in the unit of the keys, that would score so: along straight lines between points, the size on a log scale.

    Raises ValueError outside the points: a line drawn on says nothing.
    """
    points = sorted(by_size.items())
    for (small, low), (large, high) in zip(points, points[1:], strict=False):
        if low <= score <= high:
            return small * (large / small) ** ((score - low) / (high - low))
    raise ValueError(f"score is {score}; the points reach from {points[0][1]} to {points[-1][1]}.")


# ---- One function a claim ----------------------------------------------------------------------------------


def _parameters():
    found = sum(counting.parameters(counting.VERSIONS["v0.1"]).values())
    return "computed", [
        Line("billions of parameters", "7.3", f"{found / 1e9:.2f}", round(found / 1e9, 1) == 7.3),
        Line("about seven billion", "yes", f"{found:,}", round(found / 1e9) == 7),
    ]


def _beats_13b():
    ours, theirs = ([row[name] for row in TABLE_2.values()] for name in ("Mistral 7B", "Llama 2 13B"))
    ahead = sum(a > b for a, b in zip(ours, theirs, strict=True))
    return "Table 2", [
        Line("benchmarks ahead", "12 of 12", f"{ahead} of 12", ahead == 12),
        Line("ahead on most", "yes", f"{ahead} of 12", ahead > 6),
        Line("beyond sampling error", "12", f"{12 - len(undecided())}", not undecided()),
    ]


def _near_code_llama():
    ours, theirs, n = TABLE_2["HumanEval"]["Mistral 7B"], TABLE_2["HumanEval"]["Code-Llama 7B"], QUESTIONS["HumanEval"]
    low, high = difference(round(ours / 100 * n), n, round(theirs / 100 * n), n)
    mbpp = TABLE_2["MBPP"]["Mistral 7B"] / TABLE_2["MBPP"]["Code-Llama 7B"]
    return "Table 2", [
        Line("HumanEval, points apart", "few", f"{ours - theirs:+.1f} ({100 * low:+.0f} to {100 * high:+.0f})", low < 0 < high),
        Line("MBPP, share of Code-Llama's", "most", f"{mbpp:.0%}", mbpp > 0.9),
    ]


def _documents(*facts):
    return lambda: ("documents", [Line(what, said, found, said == found) for what, said, found in facts])


def _gqa_window():
    config = counting.VERSIONS["v0.1"]
    return "computed", [
        line("query heads on a key head", 4, config.group),
        line("window", 4096, config.sliding_window or 0),
    ]


def _twice():
    config = counting.VERSIONS["v0.1"]
    attention, whole = roofline.attention_ratio(16384, 4096), roofline.prefill_ratio(config, 16384, 4096, 0.5)
    decode = roofline.decode_ratio(config, 16384, 4096)
    return "computed", [
        Line("attention operator, at most", "2x", f"{attention:.3f}x", attention >= 2),
        Line("whole pre-fill, at most", "2x", f"{whole:.2f}x", whole >= 2),
        Line("decode of one text, at most", "2x", f"{decode:.2f}x", decode >= 2),
    ]


def _span():
    config = counting.VERSIONS["v0.1"]
    reach = config.n_layers * (config.sliding_window - 1)
    return "computed", [
        Line("positions back at most", "131K", f"{reach:,}", round(reach / 1000) == 131),
        Line("shown that it looks so far", "yes", "no experiment", False),
    ]


def _cache():
    config = counting.VERSIONS["v0.1"]
    full, ring = (roofline.cache_bytes(config, 32768, window) for window in (None, config.sliding_window))
    return "computed", [line("times as small at 32k", 8, full / ring), line("GiB of the ring", 0.5, ring / 2**30)]


def _per_parameter():
    each = {name: size / 7.0 for name, size in EQUIVALENT.items()}
    return "Figure 5", [
        Line("times, over all panels", "5.4", f"{min(each.values()):.1f} to {max(each.values()):.1f}", min(each.values()) >= 5.4),
        Line("performance per parameter", "yes", "sizes that would score alike", False),
    ]


def _dangerous():
    low, _ = interval(175, 175)
    return "documents", [
        Line("declines, with its guardrail prompt", "rarely", f"175 of 175 (true rate {low:.0%} or more)", False),
        Line("has a moderation mechanism built in", "no", "no", True),
    ]


def _self_reflection():
    return "documents", [
        Line("precision", "99.4 %", "99.4 %", True),
        Line("the set it was measured on", "open", "not disclosed", False),
    ]


CHECKS: dict[str, Callable[[], tuple[str, list[Line]]]] = {
    "parameters": _parameters,
    "beats-13b": _beats_13b,
    "near-code-llama": _near_code_llama,
    "apache": _documents(*((f"licence of the {what}", "Apache 2.0", "Apache 2.0") for what in ("weights", "code"))),
    "gqa-window": _gqa_window,
    "twice-at-16k": _twice,
    "span-131k": _span,
    "cache-8x": _cache,
    "per-parameter": _per_parameter,
    "dangerous": _dangerous,
    "self-reflection": _self_reflection,
}  # fmt: skip
