"""Chapter 11: the triangles in the picture are the library's, its words count what the rule shows; and the exercises."""

import json
import re

import pytest
import torch

from minimistral import masks, naive
from minimistral.exercises import speed
from minimistral.widgets import triangles
from minimistral.widgets.triangles import BLOCKS, STEPS, Triangles, W, kinds

ALL = [(n, step) for n in BLOCKS for step in range(len(STEPS))]


@pytest.mark.parametrize("n", BLOCKS)
def test_each_pair_of_the_window_lies_in_exactly_one_triangle(n):
    for i, row in enumerate(kinds(n)):
        for j, kind in enumerate(row):
            assert (kind == ".") == (j > i)
            assert (kind in "ob") == bool(masks.visible(i, j, W))
            if kind in "ob":
                assert (kind == "o") == (i // W == j // W) and (kind == "b") == (i // W == j // W + 1)


@pytest.mark.parametrize("n", BLOCKS)
def test_the_title_counts_triangles_as_the_picture_has_them(n):
    marks = "".join("".join(row) for row in kinds(n))
    lower, upper = W * (W + 1) // 2, W * (W - 1) // 2
    assert marks.count("o") == n * lower and marks.count("b") == (n - 1) * upper
    cut = "".join(Triangles(n, 1).grid())
    assert cut.count("O") // lower + cut.count("S") // lower + cut.count("U") // upper == n * n
    assert f"= {n * n} triangles" in Triangles(n, 1).title() and f"= {2 * n - 1} triangles" in Triangles(n, 2).title()
    assert f"{masks.count(n * W, W)} of {masks.count(n * W)} pairs" in Triangles(n, 2).words()


def test_the_marks_of_each_step():
    marks = [set("".join(Triangles(4, step).grid())) for step in range(len(STEPS))]
    assert marks == [set("OS."), set("OSU."), set("OB-."), set("Ob-."), set("oB-."), set("oB-."), set("OBob-.")]
    for n, step in ALL:
        if step >= 2:
            hidden = ["".join(row).count("-") for row in Triangles(n, step).grid()]
            assert hidden == [max(0, i + 1 - W) for i in range(n * W)]
    last = Triangles(4, 6)
    assert [i for i, row in enumerate(last.grid()) if set(row) & set("OB")] == [last.query]
    assert last.grid()[last.query].count("O") + last.grid()[last.query].count("B") == W


def test_backwards_it_is_a_causal_triangle_of_the_same_pairs():
    state = Triangles(4, 5)
    assert state.turned() == ["B..", "BB.", "BBB"]
    grid = state.grid()
    rows = zip(state.rows(), state.turned(), strict=True)
    pairs = {(i, j) for i, row in rows for j, mark in zip(state.columns(), row, strict=True) if mark == "B"}
    assert pairs == {(i, j) for i in range(W, 2 * W) for j in range(W) if grid[i][j] == "B"}
    assert not any(Triangles(4, step).turned() for step in (0, 1, 2, 3, 4, 6))


def test_the_words_of_the_steps():
    assert "58 of 136 pairs" in Triangles(4, 2).words() and "2.286 times fewer, and 16/7 is 2.286" in Triangles(4, 2).words()
    assert "4 short texts" in Triangles(4, 3).words()
    assert "keys 4, 5, b over keys 2, 3" in Triangles(4, 6).words()
    assert Triangles(2, 0).title().endswith("2 triangles and 1 square")
    assert Triangles(2, 4).title() == "The other one, b, upside down"


def test_the_page_is_self_contained_small_and_always_the_same():
    state = Triangles(4, 2)
    (bundle, told), page = state._repr_mimebundle_(), state.html()
    assert page == Triangles(4, 2).html() != Triangles(4, 3).html()
    assert sum(len(part) for part in bundle.values()) < 150_000
    code = re.sub(r'base64,[^"]*', "", page)
    assert not re.search(r"https?:|//|import |require|fetch|XMLHttp", code)
    assert "TRIANGLES_" not in page and page.count("<script>") == page.count("</script>") == 1
    data = json.loads(re.search(r"const data = (\{.*\}), SIDE = ", page)[1])
    assert set(data["frames"]) == {f"{n}/{step}" for n, step in ALL}
    for n, step in ALL:
        one, frame = Triangles(n, step), data["frames"][f"{n}/{step}"]
        assert frame["grid"] == one.grid() and (frame["title"], frame["words"]) == (one.title(), one.words())
    assert bundle["image/png"].startswith(b"\x89PNG") and bundle["text/plain"] == repr(state) == triangles.draw(state).text
    assert told == {"image/png": {"alt": repr(state)}}


@pytest.mark.parametrize(
    "arguments, words", [((7, 0), "n is 7"), ((4, 7), "step is 7"), ((4, True), "step is True"), ((0, 0), "n is 0")]
)
def test_a_picture_that_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Triangles(*arguments)


# --- the exercises --------------------------------------------------------------------------------------------------------


def test_the_answers_agree_with_the_judge():
    for q, k, v, window in speed.window_draws():
        if len(q) < 100:
            judge = naive.attend(*(x[None, None] for x in (q, k, v)), window)[0, 0]
            assert torch.allclose(speed.attend_window.answer(q, k, v, window), judge, atol=1e-5)
    for N, window in [(N, window) for N in range(1, 12) for window in range(1, 14)]:
        assert speed.count_pairs.answer(N, window) == sum(min(i + 1, window) for i in range(N))
    g = torch.Generator().manual_seed(0)
    scores, values = torch.randn(2, 3, 9, generator=g), torch.randn(2, 9, 4, generator=g)
    parts = [x for keys in (slice(0, 4), slice(4, 9))
             for x in (scores[..., keys].softmax(-1) @ values[:, keys], scores[..., keys].logsumexp(-1))]  # fmt: skip
    out, lse = speed.merge.answer(*parts)
    assert torch.allclose(out, scores.softmax(-1) @ values, atol=1e-6) and torch.allclose(lse, scores.logsumexp(-1), atol=1e-6)


def test_the_ceiling_of_the_exercise_is_the_librarys():
    from minimistral import roofline
    from minimistral.counting import VERSIONS

    for n in (2, 4, 8, 32):
        for rate in (1.0, 0.5):
            linear, full = roofline.prefill_flops(VERSIONS["v0.1"], n * 4_096, None)
            mine = speed.ceiling.answer(linear, full, n, rate)
            assert mine == pytest.approx(roofline.prefill_ratio(VERSIONS["v0.1"], n * 4_096, 4_096, rate), rel=1e-3)


def test_right_numbers_from_elsewhere_are_not_enough(capsys):
    def by_slices(q, k, v, window):  # each query by itself
        rows = [((k[max(0, i - window + 1) : i + 1] @ q[i]) / q.shape[1] ** 0.5) for i in range(len(q))]
        powers = [(row - row.max()).exp() for row in rows]
        return torch.stack([p @ v[i + 1 - len(p) : i + 1] / p.sum() for i, p in enumerate(powers)])

    speed.attend_window.check(by_slices)
    assert "asked for 0 pairs, where the window has 65,040" in capsys.readouterr().out
    speed.attend_window.why()
    assert "not by triangles" in capsys.readouterr().out
    speed.attend_window.check(speed.attend_window.rights[0])
    assert capsys.readouterr().out.startswith("✓")


def test_the_kernel_refuses_what_it_cannot_do():
    x = torch.randn(2, 3, 4)
    for bad, words in (((x[:0],) * 3, "nothing to attend"), ((x, x[:1], x), "expected three"), ((x[0],) * 3, "expected three")):
        with pytest.raises(ValueError, match=words):
            speed.causal(*bad)


def test_the_lines_that_cannot_stand_break_what_the_page_has_shown():
    from minimistral import roofline
    from minimistral.counting import VERSIONS

    low, high = {}, {}
    for letter, row in speed.LINES.items():
        low[letter], high[letter] = map(float, row[4].split(" to "))
    pairs = roofline.attention_ratio(16_384, 4_096)
    assert low["C"] > pairs > high["A"] and low["F"] < 1 < high["F"]
    assert high["D"] < roofline.prefill_ratio(VERSIONS["v0.1"], 16_384, 4_096, 0.5) < low["E"]
    assert high["G"] < roofline.decode_ratio(VERSIONS["v0.1"], 16_384, 4_096, 32)
    assert set(speed.HONEST) | set(speed.cannot_stand.answer()) == set(speed.LINES)


def test_autograd_through_the_merge_is_wrong_and_the_library_is_right():
    """The aside of the page: so the library must not merge in the open."""
    import minimistral as mm

    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(12, 4, generator=g, dtype=torch.float64).requires_grad_() for _ in range(3))

    def merged():
        Q, K, V = (x.view(-1, 4, 4) for x in (q, k, v))
        own, lse = speed.causal(Q, K, V)
        other, other_lse = (x.flip(1) for x in speed.causal(*(x.flip(1) for x in (Q[1:, :-1], K[:-1, 1:], V[:-1, 1:]))))
        both, _ = speed.merge.answer(own[1:, :-1], lse[1:, :-1], other, other_lse)
        return torch.cat((own[:1], torch.cat((both, own[1:, -1:]), 1))).flatten(0, 1)

    def library(method):
        return mm.attend(*(x[None, None] for x in (q, k, v)), window=4, method=method)[0, 0]

    judge, open_merge, ours = (
        torch.autograd.grad((out**2).sum(), (q, k, v)) for out in (library("naive"), merged(), library("triangles"))
    )
    assert torch.allclose(merged(), library("naive"))
    assert (judge[0] - open_merge[0]).abs().max() > 0.05
    assert all(torch.allclose(a, b) for a, b in zip(judge, ours, strict=True))
