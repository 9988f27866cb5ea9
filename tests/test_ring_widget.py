"""The ring scrubber without a browser: its frames are what lies in the cache, its words say the same, and its page is plain."""

import json
import re

import pytest
import torch
from helpers import small_model

from minimistral import museum, naive, rope
from minimistral.cache import RollingBuffer
from minimistral.widgets import ring
from minimistral.widgets.ring import RingScrubber

T = 13
TOKENS = [7, 3, 3, 9, 3, 0, 7, 7, 12, 3, 1, 2, 7]  # the same token at several places: only the position tells their keys apart


def run(W, C, kind=RollingBuffer):
    return ring.run(small_model(W, rope_theta=1e4), TOKENS, C, kind)


# --- what the frames say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("W", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("C", [1, 2, 3, 5, 13])
def test_frames_agree_with_writing_one_by_one_and_with_the_window(W, C):
    frames = run(W, C)
    assert len(frames) == 1 + 2 * -(-T // C) and frames[0].held == (None,) * W
    for n, (comes, stored) in enumerate(zip(frames[1::2], frames[2::2], strict=True)):
        start, end = n * C, min((n + 1) * C, T)
        before, after = (naive.rolling_buffer(range(p), W) for p in (start, end))
        assert (comes.phase, comes.next, comes.chunk) == ("comes", start, (start, end)) and list(comes.held) == before
        assert (stored.phase, stored.next, stored.chunk) == ("stored", end, (start, end)) and list(stored.held) == after
        assert dict(stored.takes) == {s: p for s, p in enumerate(after) if before[s] != p} and comes.takes == stored.takes
        needed = {p for i in range(start, end) for p in range(i + 1) if i - p < W}
        assert set(comes.seen) == needed and len(comes.seen) == min(start, W - 1) + end - start
        assert comes.lost == tuple(sorted(needed - set(after)))
        assert (C == 1) <= (comes.lost == ())  # one token at a time loses nothing


def test_the_hand_of_each_key_is_that_of_its_position():
    step = rope.frequencies(4, 1e4)[ring.PAIR].rad2deg().item()
    for frame in run(5, 2):
        for position, degrees in zip(frame.held, frame.degrees, strict=True):
            assert (position is None) == (degrees is None)
            if position is not None:
                assert abs((position * step - degrees + 180) % 360 - 180) <= 0.51


class SwapsTwoSlots(RollingBuffer):
    def finish(self, step):
        super().finish(step)
        if self.position.item() == 9:
            self.keys[:, :, :, [0, 2]] = self.keys[:, :, :, [2, 0]]


class Spoils(RollingBuffer):
    """One number of one key of one layer."""

    def finish(self, step):
        super().finish(step)
        if self.position.item() == 9:
            self.keys[1, 0, 1, 2, 3] += 0.01


class TurnsBySlot(RollingBuffer):
    def begin(self, T, lengths):
        step = super().begin(T, lengths)
        step.positions = step.positions % self.size
        return step


def test_they_are_read_from_the_cache_and_not_worked_out():
    """Caches that do something else: the frames show what they do."""
    right, swapped, spoilt, turned = (run(4, 1, kind) for kind in (RollingBuffer, SwapsTwoSlots, Spoils, TurnsBySlot))
    assert swapped[:17] == spoilt[:17] == right[:17]
    assert right[18].held == (8, 5, 6, 7) and swapped[18].held == (6, 5, 8, 7)
    assert spoilt[18].held == (8, 5, ring.STRANGER, 7) and spoilt[18].degrees[2] is None
    assert turned[8] == right[8] and turned[10].held == (ring.STRANGER, 1, 2, 3)
    lossy, safe = run(4, 3, museum.WritesFirst), run(4, 3)
    assert lossy[:3] == safe[:3] and ring.STRANGER in lossy[4].held  # in the second layer, made of what the first had lost
    assert safe[4].held == (4, 5, 2, 3) and safe[3].lost == (0, 1) and not {0, 1} & set(lossy[3].seen)


def test_a_token_that_stands_in_several_places_is_told_apart():
    assert run(12, 1)[-1].held == (12, *range(1, 12))


# --- in words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "numbers, said",
    [([], "none"), ([3], "3"), ([3, 4], "3 and 4"), ([3, 4, 5], "3 to 5"), ([0, 2, 3], "0, 2 and 3"),
     ([1, 4, 5, 6], "1 and 4 to 6"), ([1, 2, 3, 7, 9], "1 to 3, 7 and 9")],
)
def test_numbers_are_listed_as_one_would_say_them(numbers, said):
    assert ring.listed(numbers) == said


def test_each_kind_of_frame_has_its_sentence():
    one, words = RingScrubber(), RingScrubber().words()
    said = [ring.say(frame, words, 4) for frame in one.frames()]
    assert said[0] == "Slots 0 to 3 are empty. Next: position 0, slot 0 mod 4 = 0."
    assert said[3] == "Position 1, “upon”, comes and takes slot 1, which is empty."
    assert said[11] == "Position 5, “was”, comes and takes slot 1 from position 1. It sees 2 to 5, so nobody needs 1 any more."
    assert said[12] == "Position 5 is stored, in slot 1. Next: position 6, slot 6 mod 4 = 2."
    assert said[-1] == "Position 12 is stored, in slot 0. That was the whole text."
    said = [ring.say(frame, words, 4) for frame in one.frames(4, 3)]
    assert said[1].endswith("at 0 to 2: 3 keys. Stored first, they would destroy nothing that they need.")
    assert said[5] == (
        "Positions 6 to 8 come at once. They look before they are stored, at 3 to 8: 6 keys. "
        "Stored first, they would destroy 3, needed by 6; 4, needed by 6 and 7."
    )
    said = [ring.say(frame, words, 4) for frame in one.frames(4, 5)]
    assert said[2] == "Positions 0 to 4 are stored, only the last 4 of them, in slots 0 to 3. Next: position 5, slot 5 mod 4 = 1."
    assert ring.line(one.frames()[11], words).startswith("slot 0: 4 “there”, age 0, 72° | slot 1: 1 “upon”, age 3, 18° | slot 2:")
    assert ring.line(one.frames()[0], words) == "slot 0: empty | slot 1: empty | slot 2: empty | slot 3: empty"


def test_the_text_tells_the_whole_run():
    lines = RingScrubber(window=4, chunk_size=3).text().splitlines()
    assert lines[0] == "13 tokens, 3 at a time, go into a RollingBuffer with W = 4"
    assert lines[2].split() == "0 to 2 Once 0* upon 1* a 2* .".split()
    assert lines[3].endswith("lost if stored first: 0 and 1") and lines[5].endswith("lost if stored first: 6 and 7")
    assert lines[6].split() == "12 ball 12* had 9 a 10 red 11".split()


# --- the page -------------------------------------------------------------------------------------------------------------


def test_the_page_is_plain_small_and_always_the_same():
    one, again, other = RingScrubber(), RingScrubber(), RingScrubber(window=3, chunk_size=2)
    html = one.html()
    assert html == again.html() and len(html.encode()) < 150_000
    assert not re.search(r"https?:|src=|import|fetch|require|NAME|DATA|ORANGE|BLUE|GREEN|GREY|RED\b", html)
    assert re.search(r"mm-ring-[0-9a-f]{10}", html).group() != re.search(r"mm-ring-[0-9a-f]{10}", other.html()).group()
    data = json.loads(re.search(r"const D = (\{.*?\}); const find", html).group(1))
    assert data["words"] == one.words() and data["runs"].keys() == {f"{w}/{c}" for w in (2, 3, 4, 5, 8) for c in (1, 2, 3, 5)}
    for at, shown in data["runs"].items():
        W, C = map(int, at.split("/"))
        for frame, row in zip(one.frames(W, C), shown, strict=True):
            fields = [frame.phase, frame.chunk, frame.next, frame.held, frame.degrees, frame.takes, frame.seen, frame.lost]
            assert row == json.loads(json.dumps([*fields, ring.say(frame, one.words(), W)]))


def test_picture_and_words_stand_beside_the_page():
    bundle, told = RingScrubber(window=2, chunk_size=5)._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert bundle["image/png"].startswith(b"\x89PNG\r\n\x1a\n") and len(bundle["image/png"]) > 5_000
    assert "lost if stored first" in bundle["text/plain"] and told == {"image/png": {"alt": bundle["text/plain"]}}


def test_what_it_starts_with_can_be_chosen_on_the_page():
    made = RingScrubber(window=6, chunk_size=4, windows=(2, 3), chunk_sizes=(1,), frame=3)
    assert made.windows == (2, 3, 6) and made.chunk_sizes == (1, 4)
    assert '<option value="6" selected>' in made.html() and '"start":{"window":6,"chunk":4,"frame":3}' in made.html()


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(window=0), "window is 0: the scrubber shows whole numbers from 1 to 12"),
        (dict(window=(4, None)), "window is (4, None): the scrubber shows whole numbers from 1 to 12"),
        (dict(windows=([4, None],)), "window is [4, None]: the scrubber shows whole numbers from 1 to 12"),
        (dict(window=13), "window is 13"),
        (dict(windows=(4, None)), "window is None"),
        (dict(window=True), "window is True"),
        (dict(chunk_size="3"), "chunk_size is '3': the scrubber shows whole numbers from 1 to 24"),
        (dict(chunk_sizes=(1, 25)), "chunk_size is 25"),
        (dict(windows=(1, 2, 3, 4, 5, 6, 7)), "7 choices of window were given; there is room for 6"),
        (dict(prompt=""), "prompt is ''"),
        (dict(prompt=None), "prompt is None"),
        (dict(frame=-1), "frame is -1: this run has the frames 0 to 26"),
        (dict(frame=27), "frame is 27"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_sentence(given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        RingScrubber(**given)


def test_a_long_prompt_is_cut_and_that_is_said():
    made = RingScrubber("a red ball and " * 20, windows=(4,), chunk_sizes=(5,))
    assert len(made.words()) == 24 and "The prompt has 81 tokens; the first 24 are shown." in made.text()
    assert "81 tokens" in made.html()


def test_no_prompt_breaks_the_page():
    made = RingScrubber("</script><b>&'\"`${x}\\", windows=(3,), chunk_sizes=(2,), window=3)
    html = made.html()
    assert html.count("</script>") == 1 and html.endswith("</script></div>") and "<b>" not in html.split("<script>")[0]
    assert json.loads(re.search(r"const D = (\{.*?\}); const find", html).group(1))["words"] == made.words()


def test_it_leaves_the_number_of_threads_and_the_model_as_they_were():
    torch.set_num_threads(2)
    try:
        ring.frames.cache_clear()
        RingScrubber(windows=(4,), chunk_sizes=(1,)).html()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert not any(block.attention._forward_pre_hooks for block in ring.narrow(4).layers)


# --- still pictures ---------------------------------------------------------------------------------------------------


def test_the_other_pictures_say_what_they_show():
    by_hand = repr(ring.by_hand(["a", "b", "c"], 2)).splitlines()
    assert by_hand[0] == "3 tokens, 2 slots"
    assert by_hand[2:] == ["0         a 0*    .", "1         a 0     b 1*", "2         c 2*    b 1"]
    differences = {"late": torch.tensor([0, 0, 5.0]), "healed": torch.tensor([0, 1.0, 0]), "same": torch.zeros(3)}
    assert repr(ring.parting(differences, 2)).splitlines() == [
        "late: equal up to position 1, different from 2 on",
        "healed: different from position 1 to 1, equal again from 2 on",
        "same: equal everywhere",
    ]
    grown = repr(ring.growth([8, 16], {"one": [10, 2_000], "two": [10, 10]}, 8)).splitlines()
    assert grown[0].split() == ["tokens", "1", "W", "2", "W"] and grown[1].split() == ["one", "10", "2,000"]
    assert "1,234 tokens a second" in repr(ring.speeds({"ring": 1234.1}))
