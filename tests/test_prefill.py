"""Chapter 06: the pictures say what the cache does, the exercises agree with the judge, and the chapter's rules hold."""

import math

import numpy as np
import pytest
import torch
from helpers import compositions, random_ids, small_model

from minimistral import lattice, museum, naive, probe
from minimistral.cache import RollingBuffer
from minimistral.exercises import prefill as ex
from minimistral.exercises.frame import difference
from minimistral.widgets import prefill
from minimistral.widgets.attention import FALLEN, FUTURE
from minimistral.widgets.picture import Picture

PNG = b"\x89PNG\r\n\x1a\n"
WORDS = "The cat sat on the mat and saw the dog go to".split()


def window(i, W):
    return set(range(max(0, i - W + 1), i + 1))


# --- who sees whom --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("W", [1, 2, 3, 4])
def test_looks_read_from_the_cache_what_every_query_sees(W):
    for sizes in compositions(7):
        for look in prefill.looks(RollingBuffer, list(sizes), W):
            assert [set(seen) for seen in look.seen] == [window(i, W) for i in range(look.start, look.end)]
            assert set().union(*look.seen) <= set(look.at_hand)


@pytest.mark.parametrize("W", [1, 2, 5])
def test_the_rule_of_how_many_keys_a_chunk_needs(W):
    """min(cached, W - 1) + C are seen; at hand are all slots that have been filled, and the chunk."""
    for cached in range(3 * W):
        for C in range(2, 2 * W + 2):
            look = prefill.looks(RollingBuffer, [1] * cached + [C], W)[-1]
            assert len(set().union(*look.seen)) == min(cached, W - 1) + C
            assert len(look.at_hand) == min(cached, W) + C


def test_looks_show_what_a_broken_cache_has_lost():
    """The puzzle: W = 4, four stored, three come. Worked out by hand."""
    look = prefill.looks(museum.WritesFirst, [4, 3], 4)[-1]
    assert [set(seen) for seen in look.seen] == [{3, 4}, {3, 4, 5}, {3, 4, 5, 6}]
    marks = [[prefill.mark(look, i, j, 4) for j in range(7)] for i in (4, 5, 6)]
    assert marks == [
        ["fallen", "gone", "gone", "old", "new", "future", "future"],
        ["fallen", "fallen", "gone", "old", "new", "new", "future"],
        ["fallen", "fallen", "fallen", "old", "new", "new", "new"],
    ]


def test_the_papers_figure():
    """arXiv:2310.06825, Figure 3: chunks of 4, W = 4. A row never has more than four, a chunk never more than 2 W."""
    picture = prefill.film(prefill.looks(RollingBuffer, [4, 4, 4], 4), WORDS, 4)
    rows = [line.split()[2:] for line in picture.text.splitlines() if line[:4].strip().isdigit()]
    assert rows[4] == list("-cccn.......") and rows[6] == list("---cnnn.....") and rows[11] == list("--------nnnn")
    assert all(row.count("n") + row.count("c") == min(i + 1, 4) for i, row in enumerate(rows)) and len(rows) == 12
    assert "positions 8 to 11: 8 keys at hand, 7 of them seen" in picture.text


# --- pictures -------------------------------------------------------------------------------------------------------------


def test_every_picture_has_a_text_twin():
    some = lattice.cells(windows=[2], heads=[(4, 1)], every=3, some=2, ragged=[False])
    model, tokens = small_model(4), random_ids(1, 13)
    found = probe.compare(model, tokens, probe.at_once, probe.through(museum.WritesFirst, 3))
    made = [
        prefill.film(prefill.looks(RollingBuffer, [3, 4], 4), WORDS[:7], 4, "a title"),
        prefill.orders({"one": museum.WritesFirst, "two": RollingBuffer}, WORDS[:7], 4, 4),
        prefill.costs([16, 64, 256], [0.2, 0.05, 0.1], [2**20, 2**21, 2**20], 64),
        prefill.grid(lattice.run(some, progress=False)),
        prefill.parting(found),
    ]
    for picture in made:
        assert isinstance(picture, Picture) and picture.png.startswith(PNG) and len(picture.png) > 2_000
        assert picture._repr_mimebundle_()[0]["text/plain"] == repr(picture) and len(repr(picture)) > 60
    assert made[0].text.startswith("a title\n") and "   4      the  - ! ! c n . ." in made[1].text
    assert "chunks of    64:       50 ms,   2.00 MiB at the peak" in made[2].text
    assert "all 256 at once:      100 ms,   1.00 MiB at the peak" in made[2].text


def test_four_kinds_of_nothing_have_four_colours():
    weights = np.zeros((4, 4))
    weights[3, 1:] = 0.2, 0.001, 0.799
    table = prefill.colours(weights, window=3)
    assert tuple(table[0, 1]) == FUTURE and tuple(table[3, 0]) == FALLEN and tuple(table[1, 0]) == prefill.UNSEEN
    small, large = table[3, 2].astype(int), table[3, 3].astype(int)
    assert len({FUTURE, FALLEN, prefill.UNSEEN, tuple(small), tuple(large)}) == 5
    leaked = weights.copy()
    leaked[0, 3] = 0.5
    assert tuple(prefill.colours(leaked, 3)[0, 3]) != FUTURE, "a weight where none may be is shown"


def test_the_parting_is_shown_with_what_lies_around_it():
    model, tokens = small_model(4), random_ids(1, 60)
    found = probe.compare(model, tokens, probe.through(sizes=7), probe.through(museum.WritesFirst, 7))
    rows, columns = prefill.shown(found)
    assert found.query in rows and found.key in columns and len(rows) <= 2 * prefill.AROUND + 1
    assert columns[0] >= 0 and columns[-1] == rows[-1] and (np.diff(columns) == 1).all()


# --- the exercises --------------------------------------------------------------------------------------------------------


def test_the_hand_counted_answer():
    seen = {i: window(i, 6) for i in (*range(4, 9), *range(40, 45))}
    union = [len(set().union(*(seen[i] for i in range(start, start + 5)))) for start in (4, 40)]
    assert ex.keys_at_hand.answer() == [len(seen[4]), len(seen[8]), *union]


def test_a_chunk_step_is_the_judges_window():
    """Fed with all cuts of nine tokens: the judge's attention, and the judge's ring."""
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 9, 4, generator=g)
    for W in (1, 3, 4):
        judge = naive.attend(q[None, None], k[None, None], v[None, None], W)[0, 0]
        for sizes in compositions(9):
            keys, values, at = torch.full((W, 4), 99.0), torch.full((W, 4), -99.0), 0
            for n in sizes:
                part = slice(at, at + n)
                out, keys, values = ex.chunk_step.answer(q[part], k[part], v[part], keys, values, at)
                assert difference(judge[part], out, 1e-5) is None
                at += n
            assert torch.equal(keys, torch.stack(naive.rolling_buffer(k, W)))
            assert torch.equal(values, torch.stack(naive.rolling_buffer(v, W)))


def test_the_chunks_of_the_check_are_of_every_kind():
    kinds = [(len(q), len(keys), position) for q, _, _, keys, _, position in ex.chunk_draws()]
    assert any(C > W and position > W for C, W, position in kinds) and any(C > W and not position for C, W, position in kinds)
    assert any(C < W and position > W for C, W, position in kinds) and any(C == W for C, W, _ in kinds)
    assert any(W == 1 for _, W, _ in kinds) and any(C == 1 for C, *_ in kinds)
    assert any(0 < position < W < position + C for C, W, position in kinds)
    for _, _, _, keys, values, position in ex.chunk_draws():  # what was never written is there, and can be told apart
        assert not len(keys[position:]) or keys[position:].abs().mean() > 4 and values[position:].abs().mean() > 4


def test_a_slot_written_twice_in_one_assignment_is_refused():
    """Whatever the sizes and the number of cores, and only where the two differ: order matters nowhere else."""
    new, at = torch.arange(5.0), torch.tensor([0, 1, 2, 0, 1])
    twice = (
        lambda to: to.__setitem__(at, new),
        lambda to: to.index_put_((at,), new),
        lambda to: to.index_copy(0, at, new),
        lambda to: to.scatter_(0, at, new),
        lambda to: to[None].scatter(1, at[None], new[None]),
        lambda to: to.repeat(2, 1).__setitem__((slice(None), at), new),
    )
    fine = (
        lambda to: to.__setitem__(at, 7.0),
        lambda to: to.__setitem__(at, new[at]),
        lambda to: to.__setitem__(at[:3], torch.tensor([1.0, float("nan"), float("inf")])),
        lambda to: to.index_put_((at,), new, accumulate=True),
        lambda to: to.scatter_add_(0, at, new),
        lambda to: to.scatter_(0, at[:2], new[:2]),
        lambda to: to.scatter_reduce_(0, at, new, "amax"),
        lambda to: (to > 1).__setitem__(at, True),
        lambda to: to.__setitem__(to > 1, 2.0),
        lambda to: to.long().index_copy(0, at[2:], torch.arange(3)),
        lambda to: [to.__setitem__(n % 3, x) for n, x in enumerate(new)],
    )
    with ex.OneWriteASlot():
        for write in twice:
            with pytest.raises(ValueError, match="some slot is written twice in one assignment"):
                write(torch.arange(3.0))
        for write in fine:
            write(torch.arange(3.0))


def test_places_keep_their_promise():
    """Ragged chunks, one after the other: every ring is the judge's ring of its own row."""
    generator = torch.Generator().manual_seed(1)
    for W in (1, 2, 3, 5):
        texts, slots, positions = [[], [], []], [[None] * W for _ in range(3)], [0, 0, 0]
        for _ in range(8):
            lengths = torch.randint(0, 7, (3,), generator=generator).tolist()
            before = list(positions)
            positions, writes = ex.places.answer(positions, lengths, W)
            for row, n in enumerate(lengths):
                new = [f"{row}:{before[row] + c}" for c in range(n)]
                texts[row] += new
                assert len({slot for _, slot in writes[row]}) == len(writes[row]) and positions[row] == len(texts[row])
                for column, slot in writes[row]:
                    slots[row][slot] = new[column]
                assert slots[row] == naive.rolling_buffer(texts[row], W)


def test_places_are_where_the_library_writes():
    model = small_model(3)
    cache = RollingBuffer(model.config, batch_size=3)
    positions = [0, 0, 0]
    for T, lengths in ((4, [4, 0, 2]), (2, [1, 2, 0]), (5, [5, 3, 4]), (1, [0, 1, 1])):
        step = cache.begin(T, torch.tensor(lengths))
        positions, writes = ex.places.answer(positions, lengths, 3)
        ours = [[] for _ in lengths]
        for row, column, slot in zip(step.rows.tolist(), step.columns.tolist(), step.slots.tolist(), strict=True):
            ours[row].append((column, slot))
        assert ours == writes
        cache.finish(step)
        assert cache.position.tolist() == positions


def test_the_trimmed_cache_mended_is_the_judges_window():
    g = torch.Generator().manual_seed(2)
    q, k, v = torch.randn(3, 8, 4, generator=g)
    for W in (1, 3):
        judge = naive.attend(q[None, None], k[None, None], v[None, None], W)[0, 0]
        for sizes in compositions(8):
            keys, values, at = torch.empty(0, 4), torch.empty(0, 4), 0
            for n in sizes:
                part = slice(at, at + n)
                out, keys, values = ex.trimmed_step.answer(q[part], k[part], v[part], keys, values, W)
                assert difference(judge[part], out, 1e-5) is None and torch.equal(keys, k[max(0, at + n - W) : at + n])
                at += n


def test_the_broken_step_of_the_page_is_right_one_by_one_and_cries_out_only_beyond_w():
    for q, k, v, keys, values, W in ex.trimmed_draws():
        C, n = len(q), len(keys)
        got, *kept = ex.broken_step(q, k, v, keys, values, W)
        right, *wanted = ex.trimmed_step.answer(q, k, v, keys, values, W)
        assert difference(wanted, kept, 1e-6) is None
        assert got.isnan().any() == (C > W)
        if C == 1 or n + C <= W:
            assert difference(right, got, 1e-5) is None
        else:
            assert difference(right, got, 1e-5) is not None
    shapes = [(len(q), W, len(keys)) for q, _, _, keys, _, W in ex.trimmed_draws()]
    assert any(C > W for C, W, _ in shapes) and any(1 < C <= W and n + C > W for C, W, n in shapes)
    assert all(n <= W for _, W, n in shapes) and math.prod(n for *_, n in shapes) == 0
