"""The RoPE dial without a browser: its table is what rope.rotate computes, its page is plain, and nothing makes it raise."""

import json
import math
import re

import pytest
import torch

from minimistral import rope
from minimistral.widgets import dial
from minimistral.widgets.dial import Dial, RopeDial

ONES = (1.0, 0.0) * 4


def drawn(D, seed=0):
    return torch.randn(2, D, generator=torch.Generator().manual_seed(seed))


def some_dials():
    yield Dial(ONES, ONES)
    for D, theta, last in ((2, 1e4, 5), (6, 100.0, 24), (20, 1e6, 11), (128, 1e4, 20)):
        q, k = drawn(D, seed=D)
        yield Dial(tuple(q), tuple(k), theta, last, shifts=(0, 3, 1_000))


@pytest.mark.parametrize("state", list(some_dials()), ids=lambda state: f"D{len(state.q)}")
def test_the_table_is_what_rotate_computes(state):
    F = state.frames()
    at = torch.tensor(F["at"])
    turn = rope.angles(at, len(state.q), state.theta)
    real = {name: rope.rotate(torch.tensor(getattr(state, name)).expand(len(at), -1), *turn) for name in ("q", "k")}
    for name, vectors in real.items():
        pairs = vectors.unflatten(1, (-1, 2))[:, F["pairs"]]
        length, angle = torch.tensor(F["length"][name]), torch.tensor(F[name]).T
        shown = torch.stack((length * angle.cos(), length * angle.sin()), dim=-1)
        torch.testing.assert_close(shown, pairs, atol=5e-3, rtol=0)
    score, share = real["q"] @ real["k"].T, torch.einsum("iab,jab->aij", *(x.unflatten(1, (-1, 2)) for x in real.values()))
    for n, row in enumerate(F["score"]):
        assert len(row) >= 1 and row == pytest.approx([score[n, n - d].item() for d in range(len(row))], abs=2e-2)
        assert [F["at"][n] - F["at"][n - d] for d in range(len(row))] == list(range(len(row)))
    for hand, pair in enumerate(F["pairs"]):
        cosine = [math.cos(math.radians(row[0])) for row in F["between"][hand]]
        q, k = (x.unflatten(1, (-1, 2))[:, pair] for x in real.values())
        assert cosine == pytest.approx(torch.cosine_similarity(q, k).tolist(), abs=1e-3)
        part = [share[pair, state.last, state.last - d].item() for d in range(state.last + 1)]
        assert F["share"][hand] == pytest.approx(part, abs=1e-2)
    assert [float(speed) for speed in F["speed"]] == pytest.approx(
        rope.frequencies(len(state.q), state.theta)[F["pairs"]].tolist(), rel=2e-2
    )


@pytest.mark.parametrize("state", list(some_dials()), ids=lambda state: f"D{len(state.q)}")
def test_shifting_both_changes_the_hands_but_neither_angle_nor_score(state):
    F = state.frames()
    here, there = F["first"][0] + state.last, F["first"][-1] + state.last
    assert F["at"][there] - F["at"][here] == 1_000
    assert [hand[here] for hand in F["q"]] != [hand[there] for hand in F["q"]]
    assert F["score"][here] == pytest.approx(F["score"][there][: state.last + 1], abs=2e-3)
    for hand in F["between"]:
        for a, b in zip(hand[here], hand[there], strict=False):
            assert abs((a - b + 180) % 360 - 180) < 0.02
    assert F["score"][here] != pytest.approx([F["score"][here][0]] * (state.last + 1), abs=2e-3)  # the distance does count


def test_a_quarter_of_the_clock_by_hand():
    """D = 2 and one radian a step: at distance 2 the score of two unit arrows is cos 2, wherever they stand."""
    state = Dial((1, 0), (1, 0), last=4, shifts=(0, 7), query=3, key=1, shift=1)
    assert state.frames()["share"] == [[pytest.approx(math.cos(d), abs=1e-3) for d in range(5)]]
    assert state.say() == "query at 10, key at 8: 2 apart. Pair 0: 114.59° from key to query. Score: -0.416."
    assert state.say(shift=0, key=3) == "query at 3, key at 3: 0 apart. Pair 0: 0.00° from key to query. Score: 1.000."


def test_the_words_hold_the_payoff():
    lines = Dial(ONES, ONES).text().splitlines()
    angle_and_score = [re.search(r"([\d.-]+)° from key to query. Score: ([\d.-]+)\.$", line).groups() for line in lines[1:3]]
    assert angle_and_score[0] == angle_and_score[1] == ("171.89", "1.965")
    assert "1,012" in lines[2] and "1,009" in lines[2]
    assert lines[3].split(": ")[1].split()[0] == "4.00"


def test_the_page_is_plain_small_and_always_the_same():
    one, again, other = RopeDial(ONES, ONES), RopeDial([1, 0] * 4, [1, 0] * 4), RopeDial(ONES, ONES, theta=100)
    html = one._repr_mimebundle_()[0]["text/html"]
    assert html == again._repr_mimebundle_()[0]["text/html"] and len(html) < 150_000
    assert not re.search(r"https?:|src=|import|fetch|require", html)
    assert re.search(r"mm-dial-[0-9a-f]{10}", html).group() != re.search(r"mm-dial-[0-9a-f]{10}", dial.page(other.dial)).group()
    assert one.dial.text() in html and "id=" not in html
    table = json.loads(re.search(r"const F = (\{.*?\});\n", html).group(1))
    assert table == one.dial.frames()
    assert all(len(str(number).split(".")[-1]) <= 3 for row in table["score"] for number in row if isinstance(number, float))


def test_picture_and_words_stand_beside_the_page():
    bundle, told = RopeDial(ONES, ONES, query=5, key=2, hand=1)._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert bundle["image/png"].startswith(b"\x89PNG\r\n\x1a\n") and len(bundle["image/png"]) > 5_000
    assert "query at 5, key at 2: 3 apart. Pair 1" in bundle["text/plain"]
    assert told == {"image/png": {"alt": bundle["text/plain"]}}


@pytest.mark.parametrize(
    "given,said",
    [
        (dict(q=[], k=[]), "q has 0 numbers"),
        (dict(q=[1, 2, 3], k=[1, 2, 3]), "q has 3 numbers; pairs are turned"),
        (dict(q=[1, 2], k=[1, 2, 3, 4]), "must be equally long"),
        (dict(q=[1, math.nan], k=[1, 2]), "not finite"),
        (dict(q=[1, 2], k=[1e300, 2]), "not finite, or beyond 1,000,000"),
        (dict(q="ab", k=[1, 2]), "could not convert"),
        (dict(q=3, k=[1, 2]), "nothing to show"),
        (dict(q=ONES, k=ONES, theta=0), "theta is 0"),
        (dict(q=ONES, k=ONES, theta=math.nan), "theta is nan"),
        (dict(q=ONES, k=ONES, shifts=(-1,)), "each from 0 to 1,000,000"),
        (dict(q=ONES, k=ONES, shifts=()), "each from 0 to 1,000,000"),
        (dict(q=ONES, k=ONES, last="far"), "nothing to show"),
    ],
)
def test_what_cannot_be_turned_is_said_and_nothing_raises(given, said):
    shown = RopeDial(**given)
    assert said in repr(shown) and "\n" not in repr(shown)
    assert shown._repr_mimebundle_() == {"text/plain": repr(shown)}


@pytest.mark.parametrize(
    "given,said",
    [
        (dict(last=2_000), "2,001 positions were asked for; 0 to 24 are shown"),
        (dict(last=0), "With one position there is one distance, 0."),
        (dict(last=-4), "With one position there is one distance, 0."),
        (dict(last=24, shifts=tuple(range(0, 100_000, 1_000))), "100 shifts were asked for; 4 are shown."),
        (dict(q=[1.0] * 128, k=[1.0] * 128), "64 hands; 8 of them can be chosen. The score counts all."),
        (dict(q=[0, 0, 1, 0], k=[1, 0, 1, 0]), "In pair 0 the query or the key is (0, 0)"),
        (dict(query=99, key=99, hand=99, shift=99), "query at 1,020, key at 1,020: 0 apart. Pair 3"),
        (dict(query=-3, key=5, hand=-1, shift=-1), "query at 0, key at 0: 0 apart. Pair 0"),
        (dict(query=2, key=9), "query at 2, key at 2"),
    ],
)
def test_what_does_not_fit_is_cut_and_said(given, said):
    shown = RopeDial(**(dict(q=ONES, k=ONES) | given))
    bundle, _ = shown._repr_mimebundle_()
    assert said in bundle["text/plain"] and len(bundle["text/html"]) < 150_000
    assert "nan" not in bundle["text/html"].lower() and bundle["image/png"]


def test_the_largest_table_is_below_the_limit():
    q, k = (1e3 * drawn(128)).tolist()
    assert len(dial.page(Dial(tuple(q), tuple(k), last=24, shifts=(0, 1_000, 10_000, 100_000)))) < 150_000


def test_the_other_pictures_say_what_they_show():
    clocks = dial.clocks(D=8, theta=1e4, position=12)
    assert "pair 1: 0.1 rad a step, 0.191 turns at position 12" in repr(clocks)
    waves = repr(dial.wavelengths(D=128, thetas=(1e4, 1e6), context=8_192))
    assert "to 54,410 (slowest); 14 of 64" in waves and "30 of 64" in waves
    at = torch.tensor([10, 20, 30])
    errors = repr(dial.errors(at, {"one": torch.tensor([0.0, 0.2, 3.0]), "two": torch.tensor([0.0, 0.0, 2e-5])}))
    assert "one: worst error between 1 and 10, above 0.1 for the first time at position 20" in errors
    assert "two: worst error between 1e-05 and 0.0001, never above 0.1" in errors
    parts = repr(dial.where_they_part(torch.tensor([0.0, 1e-5, 2.0]), ["a", "b", "c"], threshold=1e-3))
    assert parts == "equal at position 0, 1; different at position 2"
