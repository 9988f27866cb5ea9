"""Chapter 03: the map says what the code does, the pictures say what they show, the exercises agree with the judge."""

import json
import re

import pytest
import torch
from helpers import small_config

from minimistral import RollingBuffer, naive
from minimistral.exercises import attention as chapter_01
from minimistral.exercises import grouped
from minimistral.exercises.frame import difference
from minimistral.widgets import sharing
from minimistral.widgets.picture import Picture
from minimistral.widgets.sharing import HeadMap, cache_bytes, divisors, used

PNG = b"\x89PNG\r\n\x1a\n"
PAIRS = [(H, Hkv) for H in (1, 2, 4, 6, 12, 32) for Hkv in divisors(H)]


# --- the map --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("H, Hkv", PAIRS)
def test_the_map_shows_what_attend_does(H, Hkv):
    labels = torch.arange(Hkv)
    assert list(used(H, Hkv)) == [h // (H // Hkv) for h in range(H)] == labels.repeat_interleave(H // Hkv).tolist()
    assert list(used(H, Hkv, "mod")) == [h % Hkv for h in range(H)] == labels.repeat(H // Hkv).tolist()
    values = labels.float().view(1, Hkv, 1, 1)
    judge = naive.attend(torch.randn(1, H, 1, 1), torch.randn(1, Hkv, 1, 1), values)
    assert judge.flatten().tolist() == list(used(H, Hkv))
    assert (used(H, Hkv) == used(H, Hkv, "mod")) == (Hkv in (1, H))


def test_the_folded_rows_meet_the_keys_that_the_map_says():
    H, Hkv, T = 12, 3, 5
    whose = torch.arange(H)[:, None].expand(H, T).reshape(Hkv, -1)
    for kv, row in enumerate(whose.tolist()):
        assert {used(H, Hkv)[h] for h in row} == {kv}


def test_an_attention_that_deals_heads_out_would_be_drawn_as_such(monkeypatch):
    def dealt_out(q, k, v):
        return naive.attend(q, *(x.repeat(1, q.shape[1] // k.shape[1], 1, 1) for x in (k, v)))

    monkeypatch.setattr(sharing, "attend", dealt_out)
    assert used.__wrapped__(6, 2) == (0, 1, 0, 1, 0, 1)


def test_bytes_of_the_7b_and_of_a_real_cache():
    assert [cache_bytes(n) for n in (32, 8, 1)] == [16 * 2**30, 4 * 2**30, 2**29]
    assert [cache_bytes(n, 1) for n in (32, 8, 1)] == [524_288, 131_072, 16_384]
    real = RollingBuffer(small_config(None, n_layers=3, n_heads=4, n_kv_heads=2), dtype=torch.bfloat16)
    assert real.n_bytes() == 2 * 3 * 2 * real.size * small_config().head_dim * 2


def test_the_frames_are_all_that_the_sliders_can_reach():
    state = HeadMap(40, 8)
    frames = state.frames()
    assert state.stops() == [*sharing.STOPS, 40]
    assert len(frames) == 2 * sum(len(divisors(n)) for n in state.stops())
    for key, frame in frames.items():
        H, Hkv, rule = key.split("/")
        assert frame["used"] == used(int(H), int(Hkv), rule) and len(frame["used"]) == int(H)
        assert set(frame["used"]) == set(range(int(Hkv)))
        assert frame["share"] == cache_bytes(int(Hkv)) / 2**34
    sizes = {"32/8/group": "4 GiB", "32/32/mod": "16 GiB", "6/1/mod": "0.5 GiB"}
    assert {key: frames[key]["gib"] for key in sizes} == sizes


def test_the_page_is_self_contained_small_and_always_the_same():
    state = HeadMap()
    page, (bundle, told) = state.html(), state._repr_mimebundle_()
    assert page == HeadMap().html() == bundle["text/html"] != HeadMap(8, 2).html()
    assert sum(len(part) for part in bundle.values()) < 150_000
    code = re.sub(r'base64,[^"]*', "", page).replace("h // group", "")
    assert not re.search(r"https?:|//|import |require|fetch|XMLHttp", code)
    assert "MAP_" not in page and page.count("<script>") == page.count("</script>") == 1
    assert page.index("data:image/png;base64,") < page.index("<script>"), "the still picture stands where scripts are taken away"
    data = json.loads(re.search(r"const data = (\{.*\}), W = ", page)[1])
    assert {key: tuple(frame["used"]) for key, frame in data["frames"].items()} == {
        key: frame["used"] for key, frame in state.frames().items()
    }
    assert data["start"] == {"n_heads": 32, "n_kv_heads": 8, "rule": "group"}
    assert bundle["image/png"].startswith(PNG) and bundle["text/plain"] == repr(state) == state.text()
    assert told == {"image/png": {"alt": repr(state)}}


def test_the_map_in_words():
    assert HeadMap(6, 2).text().splitlines() == [
        "6 query heads, 2 key heads, group 3: h // group",
        "  key head  0 <- query heads 0 1 2",
        "  key head  1 <- query heads 3 4 5",
        "  32k tokens of a 7B with so many key heads: 1 GiB",
    ]
    assert "key head  1 <- query heads 1 3 5" in HeadMap(6, 2, "mod").text()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((0, 1), "n_heads is 0: this map draws whole numbers from 1 to 64"),
        ((65, 1), "n_heads is 65"),
        ((True, 1), "n_heads is True"),
        ((8.0, 2), "n_heads is 8.0"),
        ((8, 16), "n_kv_heads is 16: this map draws whole numbers from 1 to 8"),
        ((8, 3), "3 key heads cannot be shared evenly by 8 query heads; 1, 2, 4, 8 can"),
        ((8, 2, "tile"), "rule is 'tile': expected one of group, mod"),
    ],
)
def test_a_map_that_cannot_be_is_refused_in_one_sentence(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        HeadMap(*arguments)


# --- the other pictures ---------------------------------------------------------------------------------------------------


def test_every_picture_has_a_text_twin():
    made = {
        "map": sharing.draw(HeadMap(64, 8)),
        "both": sharing.side_by_side(8, 2),
        "work": sharing.work(6),
        "times": sharing.times([64, 1024], [2.0, 31.5], [1.0, 1.25]),
        "bars": sharing.byte_bars({"its weights": 15 * 2**30, "keys": 2**29}),
    }
    for picture in made.values():
        assert isinstance(picture, Picture) and picture.png.startswith(PNG) and len(picture.png) > 2_000
        assert picture._repr_mimebundle_()[0]["text/plain"] == repr(picture)
    both = made["both"].text.splitlines()
    assert [row.split(":")[1].split() for row in both[1:]] == [list("01234567"), list("00001111"), list("01010101")]
    assert "calculated again: 21 keys" in made["work"].text and "kept: 6 keys" in made["work"].text
    assert made["work"].text.splitlines()[6].split() == list("aaaaan") + list("kkkkkn")
    assert "after  1024 tokens: again    31.5 ms, with the cache   1.2 ms" in made["times"].text
    assert re.search(r"keys +0\.5 GiB", made["bars"].text) and "memory: 16 GiB" in made["bars"].text


# --- the exercises --------------------------------------------------------------------------------------------------------


def test_the_answers_agree_with_the_judge():
    for q, k, v in grouped.grouped_draws():
        judge = naive.attend(q[None], k[None], v[None])[0]
        assert difference(judge, grouped.attend_grouped.answer(q, k, v), 1e-5) is None
    for q, k, v, keys, values in grouped.decode_draws():
        out, new_keys, new_values = grouped.decode_step.answer(q, k, v, keys, values)
        queries = torch.cat((torch.zeros(len(q), keys.shape[1], q.shape[1]), q[:, None]), dim=1)  # only the last one matters
        assert difference(naive.attend(queries[None], new_keys[None], new_values[None])[0, :, -1], out, 1e-5) is None
        assert torch.equal(new_keys[:, :-1], keys) and torch.equal(new_keys[:, -1], k)
        assert torch.equal(new_values[:, :-1], values) and torch.equal(new_values[:, -1], v)


def test_the_sizes_tell_every_confusion_apart():
    shapes = [(len(q), *k.shape) for q, k, _ in grouped.grouped_draws()]
    assert {H // Hkv for H, Hkv, _, _ in shapes} >= {1, 3, 4} and min(Hkv for _, Hkv, _, _ in shapes) == 1
    assert all(len({H, Hkv, T, D}) == (4 if H != Hkv else 3) for H, Hkv, T, D in shapes)
    assert [keys.shape[1] for *_, keys, _ in grouped.decode_draws()][0] == 0


def test_one_head_from_chapter_01_may_be_called_and_the_kernel_may_not(capsys):
    attend = chapter_01.attend.answer

    def with_a_loop(q, k, v):
        group = len(q) // len(k)
        return torch.stack([attend(q[h], k[h // group], v[h // group]) for h in range(len(q))])

    def with_the_kernel(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)[0]

    grouped.attend_grouped.check(with_a_loop)
    assert capsys.readouterr().out.startswith("✓")
    grouped.attend_grouped.check(with_the_kernel)
    assert "right, but not yours: it calls scaled_dot_product_attention" in capsys.readouterr().out


def test_the_broken_step_of_the_page_has_both_bugs_and_no_third():
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(6, 4, generator=g), torch.randn(2, 4, generator=g), torch.randn(2, 4, generator=g)
    keys, values = torch.randn(2, 2, 3, 4, generator=g)
    out, new_keys, _ = grouped.broken_step(q, k, v, keys, values)
    assert torch.equal(new_keys[:, -1], k)
    for h in range(6):
        weights = (keys[h % 2] @ q[h] / 2).softmax(0)  # without the new token, and dealt out
        assert torch.allclose(out[h], weights @ values[h % 2], atol=1e-6)
