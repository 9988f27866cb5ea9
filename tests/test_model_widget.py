"""Chapter 07's pictures: what they say in words is what the model and the counts are."""

import re

import pytest
import torch

import minimistral as mm
from minimistral import counting
from minimistral.widgets import model as view
from minimistral.widgets.picture import Picture
from minimistral.widgets.record import record

PNG = b"\x89PNG\r\n\x1a\n"
SENTENCE = "It had rained all week, and it was"


@pytest.fixture(scope="module")
def tiny():
    with torch.no_grad():
        yield mm.load_tiny()


@pytest.fixture(scope="module")
def views(tiny):
    """(7, T, V): what norm and output head make of the stream before the first layer and after each."""
    model, tokenizer = tiny
    with torch.no_grad():
        rec = record(model, tokenizer, SENTENCE)
        return rec, model.output(model.norm(rec.residual))


def numbers(line):
    return [float(n.replace(",", "")) for n in re.findall(r"-?\d[\d,]*\.?\d*", line)]


def test_every_picture_has_a_text_twin(tiny, views):
    v01 = counting.VERSIONS["v0.1"]
    for picture in (
        view.block(v01), view.gates(), view.bars(counting.parameters(v01)), view.shares([1024, 2048], {"a": [0.1, 0.2]}),
        view.lens(views[1], views[0].labels, tiny[1]), view.votes(torch.tensor([0.5, 2.0, -1.0]), "and"),
    ):  # fmt: skip
        assert isinstance(picture, Picture) and picture.png.startswith(PNG) and len(picture.png) > 2_000
        assert picture._repr_mimebundle_()[0]["text/plain"] == repr(picture) and len(picture.text.splitlines()) >= 2


def test_the_layers_drawing_is_what_the_code_of_a_layer_says():
    lines = view.block(counting.VERSIONS["v0.1"]).text.splitlines()
    assert lines[0].startswith("x = x + attention(RMSNorm(x))") and "32 query heads on 8 key heads" in lines[0]
    assert lines[1].startswith("x = x + feed_forward(RMSNorm(x))") and lines[1].endswith("4,096 -> 14,336 -> 4,096")


def test_the_gates_are_torchs():
    head, *rows = view.gates().text.splitlines()
    at = torch.tensor(numbers(head))
    for row, curve in zip(rows, (torch.nn.functional.silu, torch.relu, torch.sigmoid), strict=True):
        assert row.startswith(curve.__name__)
        torch.testing.assert_close(torch.tensor(numbers(row)), curve(at), atol=5.1e-3, rtol=0)


@pytest.mark.parametrize("name", counting.VERSIONS)
def test_the_bars_add_up(name):
    config = counting.VERSIONS[name]
    for parts in (counting.parameters(config), counting.flops(config, 20_000, last_only=True)):
        *rows, total, kinds = view.bars(parts).text.splitlines()
        assert {re.split(r"\s{2,}", row)[0]: int(numbers(row)[-2]) for row in rows} == parts
        assert numbers(total) == [sum(parts.values())]
        assert sum(numbers(kinds)) == pytest.approx(100, abs=0.3)
    with pytest.raises(StopIteration):
        view.kind("no such part")


def test_shares_are_told_for_every_length():
    said = view.shares([1024, 131_072], {"without": [0.019, 0.711], "W": [0.019, 0.132]}).text.splitlines()
    assert [line.split() for line in said] == [
        ["tokens", "read", "1k", "128k"], ["without", "1.9%", "71.1%"], ["W", "1.9%", "13.2%"]
    ]  # fmt: skip


def test_the_lens_names_the_first_choice_of_every_layer(tiny, views):
    model, tokenizer = tiny
    rec, logits = views
    head, *rows = view.lens(logits, rec.labels, tokenizer).text.splitlines()
    assert head.split() == rec.labels
    assert [row[:9].strip() for row in rows] == ["embedding", *(f"layer {n}" for n in range(1, 7))]
    for row, layer in zip(rows, logits, strict=True):
        assert row[9:].split() == view.words(tokenizer, layer.argmax(-1).tolist())
    with torch.no_grad():
        ids = torch.tensor([tokenizer.encode(SENTENCE, bos=True)])
        assert rows[-1][9:].split() == view.words(tokenizer, model(ids)[0].argmax(-1).tolist())


def test_the_votes_are_told_part_by_part():
    votes = torch.tensor([0.5, 2.0, -1.0, 4.25, 0.25])
    assert view.votes(votes, "and").text.splitlines() == [
        "who lifts “and” 6.0 above the mean logit", "embedding    0.5",
        "layer 1      2.0 by attention,   -1.0 by the feed-forward", "layer 2      4.2 by attention,    0.2 by the feed-forward",
    ]  # fmt: skip


def test_pieces_that_cannot_be_seen_become_a_dot(tiny):
    _, tokenizer = tiny
    assert view.words(tokenizer, tokenizer.encode(" it")[-1:]) == ["it"]
    blank = next(n for n in range(tokenizer.vocab_size) if tokenizer.pieces([n]) == ["▁"])
    assert view.words(tokenizer, [blank]) == ["·"]
