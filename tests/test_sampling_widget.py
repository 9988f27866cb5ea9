"""The sampling widget and chapter 08's other pictures, without a browser; and the chapter's exercises against the library."""

import html
import io
import json
import re

import pytest
import sentencepiece
import torch
from helpers import random_ids, small_model
from test_generation import twin

import minimistral as mm
from minimistral.exercises import tokens as ex
from minimistral.generation import probabilities
from minimistral.widgets import sampling
from minimistral.widgets.picture import Picture
from minimistral.widgets.sampling import LOTS, SHOWN, STOPS, Cut, Pieces, SamplingWidget

PNG = b"\x89PNG\r\n\x1a\n"
PROMPT = "It was a sunny day, and Noah and Mia walked to the"
SETTINGS = [
    dict(),
    dict(temperature=0.3),
    dict(temperature=2.0, top_k=50),
    dict(top_k=1),
    dict(top_p=0.8),
    dict(temperature=1.5, top_p=0.95, min_p=0.1),
    dict(top_k=12, top_p=0.9, min_p=0.2),
    dict(top_k=5, top_p=0.99),
    dict(min_p=1.0),
    dict(temperature=0.1, top_p=0.05),
]


@pytest.fixture(scope="module")
def tiny():
    return mm.load_tiny()


@pytest.fixture(scope="module")
def logits(tiny):
    model, tokenizer = tiny
    ids = torch.tensor([tokenizer.encode(PROMPT, bos=True)])
    last = model(ids, last_only=True)[0, 0]
    torch.testing.assert_close(last, model(ids)[0, -1], atol=1e-4, rtol=0)
    return last


# --- the state ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_shows_what_generation_draws_from(tiny, logits, settings):
    """Id for id the library's probabilities on the model's own logits; and those are the plain loops', in double precision."""
    cut, tokenizer = Cut.predicted(*tiny, PROMPT, **settings), tiny[1]
    order = logits.sort(descending=True, stable=True).indices
    assert list(cut.pieces) == tokenizer.pieces(order.tolist())
    torch.testing.assert_close(cut.after, probabilities(logits[None], **settings)[0][order], atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(cut.before, (logits / settings.get("temperature", 1.0)).softmax(-1)[order], atol=1e-7, rtol=1e-4)
    loops = twin(cut.logits, **({"temperature": 1.0} | settings))
    assert cut.after.tolist() == pytest.approx(loops, abs=1e-5)
    assert cut.left == sum(x > 1e-30 for x in loops)
    assert cut.held == pytest.approx(sum(b for b, a in zip(cut.before.tolist(), loops, strict=True) if a > 1e-30), abs=1e-5)


def test_each_token_is_cut_by_the_first_that_takes_it_out():
    powers = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])
    cut = Cut("x", tuple("abcde"), tuple(powers.log().tolist()), top_k=4, top_p=0.9, min_p=0.3)
    # after top-k: 8/15 4/15 2/15 1/15; the first three hold 14/15; of them c is 1/4 as likely as a
    assert [cut.cut_by(n) for n in range(5)] == ["", "", "min-p", "top-p", "top-k"]
    assert cut.left == 2 and cut.held == pytest.approx(0.75) and cut.after.tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0, 0])
    assert cut.title() == "temperature 1, top-k 4, top-p 0.9, min-p 0.3"
    assert cut.say().startswith(f"{cut.title()}: 2 of 5 tokens can be drawn, which held 75.0 %. a: 50.0 % before, 66.7 % now.")
    assert cut.text().splitlines()[2:] == [
        "             a  50.0 % -> 66.7 %",
        "             b  25.0 % -> 33.3 %",
        "             c  12.5 % -> cut by min-p",
        "             d   6.2 % -> cut by top-p",
        "             e   6.2 % -> cut by top-k",
    ]


def test_what_the_temperature_alone_has_left_nothing_is_not_called_cut():
    cut = Cut("x", ("a", "b"), (0.0, -50.0), temperature=0.1, top_p=0.9)  # e to the power of -500
    assert cut.left == 1 and [cut.cut_by(n) for n in range(2)] == ["", ""]


def test_what_is_not_shown_is_counted(tiny):
    cut = Cut.predicted(*tiny, PROMPT, top_k=100)
    rest = cut.after[SHOWN:].sum().item()
    assert f": 100 of 2,048 tokens can be drawn, which held {100 * cut.held:.1f} %; not shown: 76 of them, " in cut.say()
    assert f"76 of them, {100 * rest:.1f} %. ▁river: " in cut.say()


def lots(seed, n):
    """n numbers from 0 to 1, as the page's script draws them: xorshift on 32 bits."""
    whole, drawn = 2**32, []
    x = (seed * 2_654_435_761 + 1) % whole or 1
    for _ in range(n + 5):  # the first few still look like the seed
        x ^= x << 13 & whole - 1
        x ^= x >> 17
        x ^= x << 5 & whole - 1
        drawn.append(x / whole)
    return drawn[5:]


def draw_lots(cut, seed, n=LOTS):
    """The judge of the page's button: ranks drawn from what is left. test_browser_sampling.py compares the two."""
    ends = cut.after.double().cumsum(0)
    return [min(int((ends <= lot * ends[-1]).sum()), cut.left - 1) for lot in lots(seed, n)]


def test_lots_are_even_repeatable_and_never_fall_on_what_was_cut(tiny):
    many = lots(1, 20_000)
    assert all(0 < lot < 1 for lot in many) and lots(1, 5) == many[:5] != lots(2, 5)
    tenths = torch.histc(torch.tensor(many), 10, 0, 1) / 2000
    assert (tenths - 1).abs().max() < 0.1  # four standard deviations
    assert abs(sum(lots(seed, 1)[0] for seed in range(2000)) / 2000 - 0.5) < 0.03
    cut = Cut.predicted(*tiny, PROMPT, top_k=6)
    drawn = draw_lots(cut, 3, 4000)
    assert drawn[:LOTS] == draw_lots(cut, 3) != draw_lots(cut, 4) and set(drawn) == set(range(6))
    shares = torch.bincount(torch.tensor(drawn), minlength=6) / 4000
    assert (shares - cut.after[:6]).abs().max() < 0.03
    assert set(draw_lots(Cut.predicted(*tiny, PROMPT, top_k=1), 1)) == {0}


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(temperature=0), "temperature is 0: it takes the likeliest token, and nothing is drawn"),
        (dict(temperature=-1), "temperature is -1"),
        (dict(top_k=2049), "top_k is 2049: expected a whole number from 1 to the vocabulary's 2048"),
        (dict(top_p=0), "top_p is 0"),
        (dict(min_p=1.1), "min_p is 1.1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(tiny, settings, words):
    with pytest.raises(ValueError, match=words):
        SamplingWidget(*tiny, PROMPT, **settings)


def test_what_cannot_be_shown_is_named(tiny):
    model, tokenizer = tiny
    with pytest.raises(ValueError, match="the tokenizer has 2048 ids and the model 40: not a pair"):
        SamplingWidget(small_model(3), tokenizer, PROMPT)
    with pytest.raises(ValueError, match="given NoneType; expected a string"):
        SamplingWidget(model, tokenizer, None)


# --- the page -------------------------------------------------------------------------------------------------------------


def data_of(page):
    return json.loads(re.search(r"const data = (\{.*\}), W = ", page)[1])


def test_the_page_is_self_contained_small_and_always_the_same(tiny):
    widget = SamplingWidget(*tiny, PROMPT, top_p=0.8)
    bundle, told = widget._repr_mimebundle_()
    page = bundle["text/html"]
    assert page == SamplingWidget(*tiny, PROMPT, top_p=0.8)._repr_mimebundle_()[0]["text/html"]
    assert page != SamplingWidget(*tiny, PROMPT)._repr_mimebundle_()[0]["text/html"]
    assert sum(len(part) for part in bundle.values()) < 150_000
    code = re.sub(r'base64,[^"]*', "", re.sub(r"const data = .*", "", page))
    assert not re.search(r"https?:|//|import |require|fetch|XMLHttp", code)
    assert "CUT_" not in page and page.count("<script>") == page.count("</script>") == 1
    assert page.index("data:image/png;base64,") < page.index("<script>"), "the still picture stands where scripts are taken away"
    assert html.escape(widget.cut.say()) in page
    data = data_of(page)
    assert torch.equal(torch.tensor(data["logits"]), torch.tensor(widget.cut.logits))  # float32, to the last bit
    assert data["start"] == widget.cut.settings() == {"temperature": 1.0, "top_k": None, "top_p": 0.8, "min_p": None}
    assert len(data["pieces"]) == 2048 and data["pieces"][0] == "▁river" and data["prompt"] == PROMPT
    assert bundle["image/png"].startswith(PNG) and bundle["text/plain"] == repr(widget) == widget.cut.text()
    assert told == {"image/png": {"alt": repr(widget)}}
    assert PROMPT in bundle["text/plain"] and "▁river" in bundle["text/plain"]


def test_sliders_stop_at_what_was_asked_for_and_fit_small_vocabularies(tiny):
    settings = dict(temperature=1.25, top_k=17, top_p=0.33, min_p=0.07)
    stops = data_of(SamplingWidget(*tiny, PROMPT, **settings)._repr_mimebundle_()[0]["text/html"])["stops"]
    assert all(value in stops[name] for name, value in settings.items())
    assert stops["top_k"][-1] is stops["top_p"][-1] is stops["min_p"][0] is None
    for name, values in stops.items():
        numbers = [value for value in values if value is not None]
        assert numbers == sorted(set(numbers)) and len(numbers) > 10, name
    cut = Cut("x", tuple("abcde"), (3.0, 2.0, 1.0, 0.0, -1.0))
    assert data_of(sampling.page(cut, b""))["stops"]["top_k"] == [1, 2, 3, 4, 5, None]
    assert STOPS["top_p"][:3] == (0.05, 0.1, 0.15)


def test_no_piece_ends_the_script_and_nothing_invisible_is_left_invisible():
    cut = Cut("</script><b>", ("</script>", "<s>", "\u200d", '"', "&"), (2.0, 1.0, 0.5, 0.0, -1.0))
    page = sampling.page(cut, b"")
    assert page.count("</script>") == 1 and page.endswith("</script>")
    assert data_of(page)["pieces"] == ["</script>", "<s>", "\\u200d", '"', "&"]
    assert sampling.shown("a\u200d\x00\u0301b") == "a\\u200d\\u0000\u0301b"


# --- the other pictures ---------------------------------------------------------------------------------------------------


def test_pieces_in_words_and_colours():
    tokenizer = mm.Tokenizer.from_version("v3")
    row = Pieces([("a chat", tokenizer, [1, 3, *tokenizer.encode("<i>🦊"), 4])])
    assert repr(row).startswith("a chat (10 ids): <s> 1 | [INST] 3 | ▁< 1291 | i 29478 | > 29535 | <0xF0> 1011 | ")
    page = row._repr_mimebundle_()["text/html"]
    assert page.count(sampling.CONTROL) == 3 and page.count(sampling.BYTE) == 4 and "&lt;" in page and "▁<" not in page
    assert repr(sampling.pieces(tokenizer, "Hi", "")) == "'Hi' (1 id): ▁Hi 16127\n'' (0 ids): "
    both = repr(sampling.beside({"v1": mm.Tokenizer.from_version("v1"), "v3": tokenizer}, "Hello world"))
    assert both == "'Hello world', v1 (2 ids): ▁Hello 22557 | ▁world 1526\n'Hello world', v3 (2 ids): ▁Hello 23325 | ▁world 2294"


def test_every_picture_has_a_text_twin(tiny):
    made = [sampling.draw(Cut.predicted(*tiny, PROMPT, top_k=9)), sampling.lengths([384, 512], [418, 294], 595)]
    for picture in made:
        assert isinstance(picture, Picture) and picture.png.startswith(PNG) and len(picture.png) > 2_000
    assert made[1].text == "vocabulary of   384: 418 ids\nvocabulary of   512: 294 ids"


# --- the exercises --------------------------------------------------------------------------------------------------------


def test_top_p_by_hand_is_the_librarys():
    for q, p in ex.distributions():
        expected = probabilities(q.log()[None], top_p=p)[0]
        torch.testing.assert_close(ex.top_p.answer(q, p), expected, atol=1e-5, rtol=0)


def test_the_cases_of_top_p_leave_no_room_for_rounding():
    """Where sums must hit p exactly they are powers of two; elsewhere no partial sum comes near p, in any order of adding."""
    for q, p in ex.distributions():
        ranked = q.sort(descending=True).values
        exact = all(float(x * 2**10).is_integer() for x in q)
        assert exact or (ranked.cumsum(0) - p).abs().min() > 1e-3
        assert q.sum().item() == pytest.approx(1)


def test_the_merges_by_hand_are_those_of_the_real_trainer():
    words, model = {"hop": 5, "shop": 4, "stop": 3, "hat": 2}, io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(word for word, n in words.items() for _ in range(n)), model_writer=model, model_type="bpe",
        vocab_size=3 + len("▁hopsta") + 4, normalization_rule_name="identity", character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    learned = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).id_to_piece(list(range(3, 7)))
    assert learned == ["op", "hop", "▁s", "▁hop"]
    assert [piece.replace("▁", "_") for piece in learned[1:]] == ex.merges_by_hand.answer()


def test_streaming_takes_lists_and_generators_and_does_not_need_to_look_ahead(capsys):
    def lazy(decode, ids):
        yield from ex.stream_decode.answer(decode, ids)

    def borrowed(decode, ids):
        return list(ex.tokenizer("v1").stream(ids))

    def endless(decode, ids):
        yield decode(ids)
        raise ZeroDivisionError

    for yours, said in ((lazy, "right, but not yours"), (borrowed, "✗"), (endless, "raises ZeroDivisionError"), (7, "got 7")):
        ex.stream_decode.check(yours)
        assert said in capsys.readouterr().out
    right = ex.stream_decode.rights[0]
    assert ex.stream_decode.use(right) is right
    for decode, ids in ex.streams():
        assert list(right(decode, ids)) == ex.stream_decode.answer(decode, ids)
        if 2 not in ids:  # where the library's stream ends
            text = "".join(ex.tokenizer("v1").stream(ids))
            assert text == "".join(ex.stream_decode.answer(decode, ids)) == decode(ids)


def test_the_twins_of_the_puzzle_look_alike_and_are_read_differently(tiny):
    model, tokenizer = tiny
    one, other = ex.TWINS
    assert one != other and one.strip() == other.strip()
    assert tokenizer.encode(other) == [*tokenizer.encode(one), tokenizer.encode("a ")[-1]]
    out = mm.generate(model, [tokenizer.encode(text, bos=True) for text in ex.TWINS], 4)
    assert tokenizer.decode(out.tokens[0]).startswith("box") and not tokenizer.decode(out.tokens[1]).startswith("box")


def test_random_ids_can_be_looked_at(tiny):
    ids = random_ids(1, 30, vocab_size=2048)[0].tolist()
    assert f"({len(ids)} ids)" in repr(Pieces([("any", tiny[1], ids)]))


def test_the_answers_on_the_page_are_what_the_widget_shows(tiny):
    """Chapter 08 asks for them under the widget and gives them folded."""
    flat = Cut.predicted(*tiny, PROMPT, temperature=3.0)
    assert f"{flat.stages[-1][SHOWN:].sum():.1%}" == "64.3%"
    for settings, kept in ((dict(top_p=0.9), 968), (dict(min_p=0.1), 26)):
        assert (Cut.predicted(*tiny, PROMPT, temperature=3.0, **settings).stages[-1] > 0).sum() == kept
    for settings in (dict(top_k=17), dict(top_p=0.99), dict(min_p=0.01), dict(min_p=0.02)):
        assert next(iter(settings.values())) in STOPS[next(iter(settings))]
        cut = Cut.predicted(*tiny, PROMPT, **settings)
        assert (cut.stages[-1] > 0).sum() == cut.pieces.index("▁Ruby") == 17 < SHOWN <= cut.pieces.index("▁little")
