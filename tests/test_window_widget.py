"""Chapter 04: the widget shows what masks allow and softmax gives, the pictures say what they show, the exercises are right."""

import itertools
import json
import re
from dataclasses import replace

import pytest
import torch
from helpers import small_model

import minimistral as mm
from minimistral import masks, rope
from minimistral.attention import weights as attention_weights
from minimistral.exercises import window as ex
from minimistral.widgets import window as view
from minimistral.widgets.picture import Picture

PNG = b"\x89PNG\r\n\x1a\n"
SENTENCE = "Ginger always slept in the wooden box. Then Ginger was gone. Lily found Ginger in the"


@pytest.fixture(scope="module")
def tiny():
    return mm.load_tiny()


@pytest.fixture(scope="module")
def seen(tiny):
    return view.explore(*tiny, SENTENCE, window=6, layers=3, layer=3, head=6)


# --- the widget -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def judged_weights(model, tokenizer, text, layer, window):
    """(H, n, n): that layer's own queries and keys, attended again under another window."""
    ids = tokenizer.encode(text, bos=True)
    turn = rope.angles(masks.positions(len(ids)), model.config.head_dim, model.config.rope_theta)
    x = model.tok_embeddings(torch.tensor([ids]))
    for block in model.layers[:layer]:
        x = block(x, turn, None, 0, None)
    attention = model.layers[layer]
    q, k, _ = attention.attention.project(attention.attention_norm(x), turn)
    return attention_weights(q, k, window)[0]


@pytest.mark.parametrize("layer", [0, 2, 5])
@pytest.mark.parametrize("window", [1, 2, 6, 12, 19])
def test_the_weights_are_the_models_under_that_window(tiny, seen, layer, window):
    judge = judged_weights(*tiny, SENTENCE, layer, window)
    for query, head in itertools.product((0, 5, 11, 18), (0, 1, 6, 8)):
        shown = replace(seen, window=window, layer=layer + 1, query=query, head=head).weights()
        expected = judge[:, query].mean(0) if head == 0 else judge[head - 1, query]
        assert sum(shown) == pytest.approx(1)
        assert shown == pytest.approx(expected.tolist(), abs=6e-3)  # the scores are sent in hundredths
        assert [w == 0 for w in shown] == [not masks.visible(query, j, window) for j in range(19)]


def neighbours(n, window, layers, query):
    """Walked by hand: who can be heard of, layer by layer."""
    heard = [{query}]
    for _ in range(layers):
        heard.append({j for i in heard[-1] for j in range(n) if i - window < j <= i})
    return heard


@pytest.mark.parametrize("n, layers", [(1, 1), (2, 3), (7, 4), (12, 2)])
def test_the_cone_is_what_a_walk_over_the_mask_reaches(n, layers):
    for window in range(1, n + 1):
        found = view.first_reached(n, window, layers)
        for query in range(n):
            for steps, heard in enumerate(neighbours(n, window, layers, query)):
                assert heard == set(range(found[steps][query], query + 1))
                assert found[steps][query] == ex.first_reachable.answer(query, steps, window)


def test_a_model_depends_on_exactly_the_tokens_of_its_cone():
    """Two layers, more query heads than key heads, a text longer than the window; by gradient, logits of every position."""
    n, window = 14, 4
    model = small_model(window)
    tokens = torch.randint(40, (1, n), generator=torch.Generator().manual_seed(1))
    first = view.first_reached(n, window, 2)[2]
    for query in range(n):
        caught = []
        hook = model.tok_embeddings.register_forward_hook(lambda m, i, o, c=caught: c.append(o.detach().requires_grad_()) or c[0])
        model(tokens)[0, query].square().sum().backward()
        hook.remove()
        depends = caught[0].grad[0].abs().amax(-1) > 0
        assert depends.nonzero().flatten().tolist() == list(range(first[query], query + 1))


def test_the_widget_in_words(seen):
    assert seen.say() == (
        "W = 6: “the” (18) sees 6 of 19 tokens; 13 are out of the window, 0 are the future. "
        "In layer 3, head 6, it looks most at “the” (18) 90 %, “in” (17) 8 %, “.” (13) 2 %. "
        "Through 3 layers it can hear of 16, from “slept” (3) on."
    )
    lines = replace(seen, query=9, window=3, layers=2).text().splitlines()
    assert [line.split()[2:] for line in lines[1:6]] == [["out", "of", "the", "window", "out", "of", "reach"]] * 5
    assert lines[6].endswith("out of the window  through 2 layers") and lines[11] == "  10     Ginger  the future"
    assert lines[10].endswith("seen, under 1 %    itself") and len(lines) == 20
    assert "“always” (2) sees 3 of 19 tokens; 0 are out of the window, 16 are the future." in replace(seen, query=2).say()
    average = replace(seen, head=0, layer=1, layers=1).say()
    assert "layer 1, average of the heads" in average and "Through 1 layer it can" in average


def test_what_a_window_of_one_leaves(seen):
    alone = replace(seen, window=1, layers=6)
    assert alone.which() == "layer 3, head 6", "how many layers the cone has does not change whose weights are shown"
    assert alone.weights()[18] == 1 and alone.cone() == [18] * 7
    assert "it looks most at “the” (18) 100 %. Through 6 layers it can hear of 1," in alone.say()


def test_the_answers_on_the_page_are_so(seen):
    """The questions below the widget in the notebook."""
    box, was, the = 7, 11, 18
    inside, outside = replace(seen, window=12).weights(), replace(seen, window=11).weights()
    assert [round(100 * inside[j]) for j in (box, was, the)] == [78, 3, 17]
    assert [round(100 * outside[j]) for j in (box, was, the)] == [0, 14, 77]
    firsts = [replace(seen, window=4, layers=layers).cone()[-1] for layers in range(1, 7)]
    assert next(layers for layers, first in enumerate(firsts, 1) if first <= box) == 4


def test_the_page_is_self_contained_small_and_always_the_same(tiny, seen):
    page, (bundle, told) = seen.page(), seen._repr_mimebundle_()
    assert page == view.explore(*tiny, SENTENCE, window=6, layers=3, layer=3, head=6).page() == bundle["text/html"]
    assert page != replace(seen, head=5).page()
    assert sum(len(part) for part in bundle.values()) < 150_000
    code = re.sub(r'base64,[^"]*', "", page)
    assert not re.search(r"https?:|//|import |require|fetch|XMLHttp", code)
    assert "WINDOW_" not in page and page.count("<script>") == page.count("</script>") == 1
    assert page.index("data:image/png;base64,") < page.index("<script>"), "the still picture stands where scripts are taken away"
    data = json.loads(re.search(r"const data = (\{.*\}), N = ", page)[1])
    assert data["labels"] == list(seen.labels) and data["reached"] == seen.reached
    assert data["scores"] == json.loads(json.dumps(seen.scores)) and data["start"]["head"] == 6
    assert bundle["image/png"].startswith(PNG) and bundle["text/plain"] == repr(seen) == seen.text()
    assert told == {"image/png": {"alt": repr(seen)}}


def test_no_token_can_break_out_of_the_page(seen):
    odd = replace(seen, labels=("</script>", "<b>", "&amp;", "`${1}`", '"', *seen.labels[5:]))
    page = odd.page()
    assert page.count("</script>") == 1 and "<b>" not in page
    assert json.loads(re.search(r"const data = (\{.*\}), N = ", page)[1])["labels"] == list(odd.labels)


def test_the_widget_of_one_token_and_of_too_many(tiny):
    one = replace(view.explore(*tiny, "a"), query=0)
    assert one.weights()[0] == 1 and one.cone() == [0] * 7
    many = view.explore(*tiny, SENTENCE + " " + SENTENCE, window=1_000, layers=99, layer=99, head=99)
    assert len(many.labels) == view.MOST and (many.window, many.layers, many.layer, many.head) == (view.MOST, 6, 6, 8)
    assert many.text().endswith("37 tokens; the last 24 are shown, and the model has read only these.")
    assert many.note in many.page()


@pytest.mark.parametrize(
    "moved, words",
    [
        ({"window": 0}, "window is 0; for these 19 tokens expected a whole number from 1 to 19"),
        ({"window": 20}, "window is 20"),
        ({"window": None}, "window is None"),
        ({"layers": 7}, "layers is 7; for these 19 tokens expected a whole number from 1 to 6"),
        ({"query": 19}, "query is 19"),
        ({"layer": 0}, "layer is 0; for these 19 tokens expected a whole number from 1 to 6"),
        ({"query": 2.0}, "query is 2.0"),
        ({"head": True}, "head is True"),
    ],
)
def test_a_state_that_cannot_be_is_refused_in_one_sentence(seen, moved, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        replace(seen, **moved)


def test_an_empty_sentence_is_refused(tiny):
    with pytest.raises(ValueError, match="The text is empty; give a sentence"):
        view.explore(*tiny, "  ")


# --- the other pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T, window", [(256, 128), (640, 128), (640, 200), (700, 1), (512, None), (384, 1_000)])
def test_blocks_are_told_as_the_dense_mask_has_them(T, window):
    kinds = view.block_kinds(masks.block_mask(T, window))
    at = masks.positions(T)
    dense = masks.dense(at, at, window)
    for row, column in itertools.product(range(len(kinds)), repeat=2):
        part = dense[128 * row : 128 * (row + 1), 128 * column : 128 * (column + 1)]
        whole = part.shape == (128, 128) and part.all()
        assert kinds[row][column] == (2 if whole else 1 if part.any() else 0)


def test_every_picture_has_a_text_twin(seen):
    gradient = torch.cat((torch.tensor([6.0, 2.0, 1.0, 1.0]), torch.zeros(3)))
    right, wrong = torch.full((511,), 0.5), torch.cat((torch.full((64,), 0.5), torch.full((447,), 3.0)))
    made = {
        "still": view.draw(seen),
        "mask": view.mask(5, 3),
        "blocks": view.blocks(masks.block_mask(512, 256)),
        "fading": view.fading(gradient, window=2, n_layers=3, marks=(0, 1)),
        "losses": view.two_losses(right, wrong, window=64, stop=511),
        "price": view.price({"all": 8_390_656, "window": 3_670_528}, {"all": 0.101, "window": 0.304}),
    }
    for picture in made.values():
        assert isinstance(picture, Picture) and picture.png.startswith(PNG) and len(picture.png) > 2_000
    assert made["mask"].text.splitlines()[:5] == masks.table(5, 3).splitlines()
    assert made["blocks"].text.splitlines() == [
        "+ . . .", "# + . .", "+ # + .", "- + # +",
        ". 6 skipped: the future", "- 1 skipped: out of the window",
        "+ 6 partial: the rule is asked for each pair", "# 3 full: all pairs, nobody asked",
    ]  # fmt: skip
    assert made["fading"].text.splitlines() == [
        "within   0 places back:  60 % of the whole gradient", "within   1 places back:  80 % of the whole gradient",
        "farthest place with any gradient: 3", "places behind it, all exactly 0: 3",
    ]  # fmt: skip
    assert "positions  64 to 127: loss 0.5 with the window, 3.0 without" in made["losses"].text
    assert "window:   3,670,528 pairs,     304 ms" in made["price"].text


# --- the exercises, and what others do --------------------------------------------------------------------------------------


def test_the_answers_agree_with_the_library_and_with_plain_sets():
    for window in (None, 1, 2, 3, 7, 20):
        at = torch.arange(12)
        assert torch.equal(ex.dense_mask.answer(at[5:], at, window), masks.dense(at[5:], at, window))
        for i, j in itertools.product(range(12), repeat=2):
            assert ex.may_see.answer(i, j, window) == masks.visible(i, j, window) == ex.near(i, j, window)
            sinks = {p for p in range(4) if p <= i} | {p for p in range(12) if masks.visible(i, p, window)}
            assert ex.may_see_sinks.answer(i, j, window) == (j in sinks)


def test_the_reach_is_the_power_of_the_mask():
    at = torch.arange(30)
    for window in (None, 1, 2, 5, 40):
        one, reach = masks.dense(at, at, window).long(), torch.eye(30).long()
        for layers in range(5):
            for position in (0, 1, 7, 29):
                first = reach[position].nonzero()[0].item()
                assert ex.first_reachable.answer(position, layers, window) == first
            reach = ((one @ reach) > 0).long()


def test_the_cases_cover_every_edge():
    pairs = {(i - j == w - 1, i - j == w, i == j, j > i) for i, j, w in ex.pair_draws() if w}
    assert {flags.index(True) for flags in pairs if any(flags)} == {0, 1, 2, 3}
    draws = ex.mask_draws()
    assert any((k.diff() < 0).any() for _, k, _ in draws) and any(w is None for *_, w in draws)
    assert all(len(q) != len(k) for q, k, _ in draws[1:]) and any(q[0] > 0 for q, _, _ in draws)
    assert {w for *_, w in ex.reach_draws()} >= {None, 1} and 0 in {n for _, n, _ in ex.reach_draws()}


def test_todays_transformers_counts_as_we_do():
    masking = pytest.importorskip("transformers.masking_utils")
    for window in (1, 3, 4):
        theirs = masking.sliding_window_causal_mask_function(window)
        for i, j in itertools.product(range(8), repeat=2):
            assert bool(theirs(0, 0, torch.tensor(i), torch.tensor(j))) == masks.visible(i, j, window)
