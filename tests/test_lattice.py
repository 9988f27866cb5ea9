"""The equivalence lattice: its cells are those promised, ours is green in all of them, and broken caches turn their own red."""

import re
from unittest import mock

import pytest
import torch
from helpers import compositions, small_config

import minimistral as mm
from minimistral import lattice, masks, museum, naive
from minimistral.cache import RollingBuffer
from minimistral.lattice import Cell, cells, run, splits

PARTS = {
    f"W={window or 'none'}, {H} query heads on {Hkv}": cells(windows=[window], heads=[(H, Hkv)])
    for window in lattice.WINDOWS
    for H, Hkv in lattice.HEADS
}
SMALL = cells(windows=[1, 3], heads=[(4, 1)], every=4, some=5)


# --- ours -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS.values(), ids=[f"{name}, {len(part)} cells" for name, part in PARTS.items()])
def test_every_way_of_feeding_gives_the_judges_logits(part):
    found = run(part, progress=False)
    assert found.red == [], repr(found)
    assert len(found.differences) == len(part) and 0 < max(found.differences) < 1e-4


def test_how_many_cells_there_are(capsys):
    """Counted by hand: splits of each T, times kinds of cache, times 3 ways to share heads, times a batch of one or ragged."""
    def ways(*Ts):
        return sum(2 ** (T - 1) if T <= 8 else 2 + 12 for T in Ts)

    with_ring = ways(1, 2, 4) + ways(1, 2, 3, 4, 7) + ways(2, 3, 4, 6, 10) + ways(4, 5, 6, 10, 16) + ways(7, 8, 9, 16, 25)
    total = 3 * with_ring * 3 * 2 + 2 * ways(1, 4, 8, 13) * 3 * 2
    whole = [cell for part in PARTS.values() for cell in part]
    assert len(set(whole)) == len(whole) == total == len(cells())
    with capsys.disabled():
        print(f"\nthe equivalence lattice: {total:,} cells")


def test_the_cells_are_those_promised():
    whole = cells()
    for W in (1, 2, 3, 5, 8):
        there = {cell.T for cell in whole if cell.window == W}
        assert there == {W - 1, W, W + 1, 2 * W, 3 * W + 1} - {0}
    for axis, values in (("kind", {"none", "growing", "ring"}), ("ragged", {False, True}), ("window", {1, 2, 3, 5, 8, None})):
        assert {getattr(cell, axis) for cell in whole} == values
    assert {H // Hkv for H, Hkv in {cell.heads for cell in whole}} == {1, 3, 4}
    assert all(lattice._judged(W, pair)[0].config.n_layers >= 2 for W in lattice.WINDOWS for pair in lattice.HEADS)
    by_axes = {(c.window, c.T, c.kind, c.sizes, c.heads, c.ragged) for c in whole}
    for W, T in {(cell.window, cell.T) for cell in whole}:
        ways = set(compositions(T)) if T <= 8 else {(T,), (1,) * T}
        for sizes in ways:
            for kind in ("none", "growing", "ring") if W else ("none", "growing"):
                assert {(W, T, kind, sizes, pair, one) for pair in lattice.HEADS for one in (False, True)} <= by_axes
    assert all(sum(cell.sizes) == cell.T and min(cell.sizes) >= 1 for cell in whole)


def test_random_splits_are_many_different_and_of_all_sizes():
    for T in (9, 10, 13, 16, 25):
        found = splits(T, every=8, some=12)
        assert len(set(found)) == len(found) == 14 and found == splits(T, every=8, some=12)
        sizes = {size for split in found for size in split}
        assert {1, 2, T} <= sizes and any(3 <= size < T for size in sizes)
    assert set(splits(8, 8, 0)) == set(compositions(8)) and len(splits(8, 8, 0)) == 128


def test_a_ragged_batch_ends_early_begins_late_and_sits_out():
    """What the subject gets, in full, for five tokens in chunks of 2, 1, 2."""
    model, texts, _ = lattice._judged(3, (4, 1))
    given = []

    def spy(model, kind, chunks):
        given.extend(chunks)
        return lattice.through()(model, kind, chunks)

    found = run([Cell(3, 5, "ring", (2, 1, 2), (4, 1), True)], spy, progress=False)
    assert not found.red
    assert [real.tolist() for _, real in given] == [[2, 2, 0], [1, 0, 1], [2, 0, 2]]
    fed = [[], [], []]
    for tokens, real in given:
        assert tokens.shape == (3, max(real.tolist()))
        for row, n in enumerate(real.tolist()):
            fed[row] += tokens[row, :n].tolist()
    assert fed == [texts[0, :5].tolist(), texts[1, :2].tolist(), texts[2, :3].tolist()]
    assert len({tuple(text.tolist()) for text in texts}) == 3


def test_the_judge_is_the_naive_twin_and_the_start_of_a_longer_text():
    model, texts, judged = lattice._judged(2, (6, 2))
    alone = naive.logits(model.state_dict(), model.config, texts[1, :4].tolist())
    assert torch.allclose(alone, judged[1, :4], atol=1e-5)


# --- others on trial ------------------------------------------------------------------------------------------------------


def red(subject, lattice=SMALL):
    return {cell for cell, _ in run(lattice, subject, progress=False).red}


class WindowPlusOne(RollingBuffer):
    """Sees W + 1 keys where it has them: beside a chunk."""

    def begin(self, T, lengths):
        step = super().begin(T, lengths)
        if step.mask is not None and not step.write_first and self.config.sliding_window:
            there = torch.cat((self.held(torch.arange(step.filled), self.position[:, None], self.size), step.positions), dim=1)
            step.mask = ((there >= 0)[:, None] & masks.dense(step.positions, there, self.config.sliding_window + 1))[:, None]
        return step


class TrimsFirst(RollingBuffer):
    """Keeps the last W of ring and chunk together before the chunk has attended."""

    def begin(self, T, lengths):
        step = super().begin(T, lengths)
        if not step.write_first and step.mask is not None and self.window:
            there = torch.cat((self.held(torch.arange(step.filled), self.position[:, None], self.size), step.positions), dim=1)
            last = (self.position + lengths)[:, None] - self.window
            step.mask = step.mask & (there >= last)[:, None, None]
        return step


class AttendsEmptySlots(RollingBuffer):
    """A single token attends every slot, written or not."""

    def begin(self, T, lengths):
        step = super().begin(T, lengths)
        if T == 1 and self.window:
            step.mask = torch.ones(self.batch_size, 1, 1, self.size, dtype=torch.bool)
        return step


class WritesPadding(RollingBuffer):
    """Every token of a chunk moves the position on, real or not."""

    def begin(self, T, lengths):
        return super().begin(T, torch.full_like(lengths, T))


class BySlot(RollingBuffer):
    """RoPE by the slot."""

    def begin(self, T, lengths):
        step = super().begin(T, lengths)
        step.positions = step.positions % self.size
        return step


class OneShortAtW(RollingBuffer):
    """Rolls one step early: the oldest key is hidden once the ring is exactly full."""

    def begin(self, T, lengths):
        step = super().begin(T, lengths)
        if T == 1 and self.window and self.filled + 1 == self.size:
            step.mask = step.mask & (torch.arange(step.mask.shape[-1]) != 0)
        return step


def overwrites(cell):
    """Some chunk of more than one token ends past the first W positions."""
    ends = [sum(cell.sizes[: n + 1]) for n in range(len(cell.sizes))]
    return cell.kind == "ring" and any(n > 1 and end > cell.window for n, end in zip(cell.sizes, ends, strict=True))


def test_writing_first_is_red_exactly_where_a_chunk_wraps():
    whole = cells(windows=[1, 2, 3], heads=[(4, 1)], every=6, some=4)
    assert red(lattice.through(museum.WritesFirst), whole) == {cell for cell in whole if overwrites(cell)}


@pytest.mark.parametrize(
    "kind, never_red, always_red",
    [
        (WindowPlusOne, lambda c: c.kind == "none" or c.feeding != "chunks" or c.T <= c.window,
         lambda c: c.kind == "ring" and c.sizes == (2, 2)),
        (TrimsFirst, lambda c: c.kind != "ring" or c.feeding != "chunks" or c.T <= c.window,
         lambda c: c.kind == "ring" and c.window == 3 and c.sizes == (2, 2)),
        (AttendsEmptySlots, lambda c: c.kind != "ring" or 1 not in c.sizes or c.window == 1,
         lambda c: c.kind == "ring" and c.window == 3 and c.sizes[0] == 1),
        (WritesPadding, lambda c: c.kind == "none" or not c.ragged,
         lambda c: c.kind == "ring" and c.ragged and c.window == 3 and c.sizes == (2, 1, 1)),
        (BySlot, lambda c: c.kind != "ring" or c.T <= c.window, lambda c: c.kind == "ring" and c.window == 3 and c.T > 3),
        (OneShortAtW, lambda c: c.kind != "ring" or (c.window and c.T < c.window) or 1 not in c.sizes,
         lambda c: c.kind == "ring" and c.window == 3 and c.sizes[:3] == (1, 1, 1)),
    ],
)  # fmt: skip
def test_a_broken_cache_turns_its_own_cells_red(kind, never_red, always_red):
    found = red(lattice.through(kind))
    must = {cell for cell in SMALL if always_red(cell)}
    assert must and must <= found
    assert not {cell for cell in found if never_red(cell)}


def test_heads_dealt_out_are_red_wherever_heads_are_shared():
    def tiled(q, k, v, *rest):
        group = q.shape[1] // k.shape[1]
        return mm.attention.attend(q, k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1), *rest)

    some = cells(windows=[3], heads=[(2, 2), (6, 2), (4, 1)], every=3, some=0, ragged=[False])
    with mock.patch("minimistral.model.attend", tiled):
        found = red(None, some)
    assert {cell.heads for cell in found} == {(6, 2)}  # with one key head, or one for each, both rules are the same
    assert {cell for cell in some if cell.heads == (6, 2) and cell.kind == "none"} <= found


def test_a_model_that_sees_the_future_or_ignores_its_window_is_red():
    def everything(q, k, v, window):
        return mm.attention.attend_masked(q, k, v, torch.ones(q.shape[2], q.shape[2], dtype=torch.bool))

    def causal(q, k, v, window):
        return mm.attention.attend(q, k, v, None)

    for wrong, red_from in ((everything, lambda c: c.T > 1), (causal, lambda c: c.window and c.T > c.window)):
        some = cells(windows=[2, None], kinds=["none"], heads=[(4, 1)], ragged=[False])
        with mock.patch("minimistral.model.attend", wrong):
            assert red(None, some) == {cell for cell in some if red_from(cell)}


def test_anything_that_is_called_alike_can_be_on_trial():
    """A subject of one's own: the judge itself, fed with all before."""
    def plain(model, kind, chunks):
        texts = [[] for _ in chunks[0][1]]
        out = []
        for tokens, real in chunks:
            logits = torch.zeros(*tokens.shape, model.config.vocab_size)
            for row, n in enumerate(real.tolist()):
                texts[row] += tokens[row, :n].tolist()
                if n:
                    logits[row, :n] = naive.logits(model.state_dict(), model.config, texts[row])[-n:]
            out.append(logits)
        return out

    assert not red(plain, cells(windows=[2], heads=[(4, 1)], every=3, some=0, kinds=["growing"]))


def test_errors_and_numbers_that_are_none_are_red_and_the_lattice_goes_on():
    def sometimes(model, kind, chunks):
        if len(chunks) == 2:
            raise RuntimeError("no")
        return [torch.full((*tokens.shape, model.config.vocab_size), float("nan")) for tokens, _ in chunks]

    some = cells(windows=[3], kinds=["ring"], heads=[(4, 1)], every=4, some=0)
    found = run(some, sometimes, progress=False)
    assert len(found.red) == len(some) and all(difference == float("inf") for _, difference in found.red)
    assert found.error == "" and "by inf" in repr(found)  # the first red cell is of one chunk, and raised nothing
    assert red(lambda *_: [], some) == set(some) == red(lambda *_: None, some)
    said = repr(run(some, lambda *_: 1 / 0, progress=False)).splitlines()
    assert said[0].endswith("it raises ZeroDivisionError: division by zero") and said[1].endswith("by inf")


@pytest.mark.parametrize("given", ["B", None, RollingBuffer(small_config(3))])
def test_what_makes_no_caches_is_refused_at_once(given):
    """A name in the place of a class would turn every cell red."""
    with pytest.raises(ValueError, match="expected the class itself, such as RollingBuffer or exam.A, not its name"):
        lattice.through(given)


# --- what it shows --------------------------------------------------------------------------------------------------------


def test_a_result_in_words_in_a_table_and_as_a_picture():
    some = cells(windows=[2], heads=[(4, 1)], every=4, some=3, ragged=[False])
    green, bad = run(some, progress=False), run(some, lattice.through(museum.WritesFirst), progress=False)
    assert repr(green) == f"{len(some)} cells, 0 differ."
    first = f"{len(some)} cells, {len(bad.red)} differ: first W 2, T 3, ring, chunks [3], 4 on 1 heads, batch of one: by "
    assert re.match(re.escape(first) + r"\d", repr(bad))
    assert len(repr(bad).splitlines()) == 3
    counts = bad.counts()
    assert sum(n for row in counts.values() for _, n in row.values()) == len(some)
    assert counts[2, 3]["ring", "one shot"] == (1, 1) and counts[2, 3]["ring", "one by one"] == (0, 1)
    assert counts[2, 3]["ring", "chunks"] == (1, 2)  # 1, 2 is red and 2, 1 is not
    lines = bad.table().splitlines()
    assert lines[1].split() == ["W", "T"] + 3 * ["one", "shot", "one", "by", "one", "chunks"]
    assert lines[4].split() == "2 3 1 1 2 1 1 2 ✗ 1 of 1 1 ✗ 1 of 2".split()
    assert "✗" not in green.table()
    bundle, _ = bad._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG") and bundle["text/plain"] == f"{bad!r}\n{bad.table()}"


def test_no_cells_are_refused_and_progress_is_shown(capsys):
    with pytest.raises(ValueError, match="The lattice has no cells"):
        run([])
    run(cells(windows=[1], heads=[(2, 2)], every=1, some=0, ragged=[False]))
    assert "cell" in capsys.readouterr().err


@pytest.mark.parametrize("given, words", [
    ({"windows": [0]}, "window is 0: expected"), ({"windows": [2.0]}, "window is 2.0"), ({"windows": ["2"]}, "window is '2'"),
    ({"windows": [(1, 2.5)]}, "window is 2.5"),
    ({"windows": [()]}, r"window is \(\)"), ({"windows": [((1,), 2)]}, r"window is \(1,\)"),
    ({"kinds": ["rung"]}, r"kinds is \['rung'\]; expected a list of some of 'none', 'growing', 'ring'"),
    ({"kinds": "ring"}, "kinds is 'ring'"),
])  # fmt: skip
def test_windows_and_kinds_that_there_are_not_are_refused(given, words):
    """An unknown kind would be tried as a growing cache, and be green."""
    with pytest.raises(ValueError, match=words):
        cells(**given)


def test_a_list_of_windows_is_taken_as_a_tuple():
    assert cells(windows=[[1, None]], every=2, some=1) == cells(windows=[(1, None)], every=2, some=1)
