"""Pictures: what they say in words is what the model computed; they are real PNGs; bad input is one sentence."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import minimistral as mm
from minimistral import course
from minimistral.attention import weights
from minimistral.widgets import attention, tour
from minimistral.widgets.picture import Folded, Picture, figure, finish
from minimistral.widgets.record import best_head, record

PNG = b"\x89PNG\r\n\x1a\n"
TEXT = "Rosa had a red ball and Finn had a blue kite. They went to the river and played until it was dark."


@pytest.fixture(scope="module")
def tiny():
    return mm.load_tiny()


@pytest.fixture(scope="module")
def rec(tiny):
    return record(*tiny, TEXT * 4)


def test_the_record_is_the_models_own_pass(tiny, rec):
    model, tokenizer = tiny
    ids = torch.tensor([tokenizer.encode(TEXT * 4, bos=True)])
    W, T, L = model.config.sliding_window, ids.shape[1], model.config.n_layers
    assert T > W
    assert torch.allclose(rec.logits, model(ids)[0], atol=1e-5)
    assert rec.weights.shape == (L, model.config.n_heads, T, T) and rec.residual.shape == (L + 1, T, model.config.dim)
    assert torch.allclose(rec.weights.sum(-1), torch.ones(1), atol=1e-5)
    assert (rec.weights[:, :, T - 1, : T - W] == 0).all() and (rec.weights.triu(1) == 0).all()
    assert rec.labels[1] == "Rosa" and len(rec.labels) == T


def test_weights_times_values_is_attention():
    q, k, v = torch.randn(2, 6, 9, 4), torch.randn(2, 2, 9, 4), torch.randn(2, 2, 9, 4)
    mixed = weights(q, k, window=3) @ v.repeat_interleave(3, dim=1)
    assert torch.allclose(mixed, mm.attend(q, k, v, window=3, method="naive"), atol=1e-5)


def test_every_picture_has_a_text_twin(tiny, rec):
    model, tokenizer = tiny
    made = [
        tour.layers(model),
        tour.stream(rec),
        tour.scores(rec, tokenizer),
        tour.choices(rec, tokenizer),
        attention.draw(attention.View(rec, 0, 0)),
        course.draw(),
    ]
    for picture in made:
        assert isinstance(picture, Picture) and picture.png.startswith(PNG) and len(picture.png) > 2_000
        bundle, told = picture._repr_mimebundle_()
        assert bundle["text/plain"] == repr(picture) and len(repr(picture)) > 40
        assert told == {"image/png": {"alt": repr(picture)}}
    best = rec.logits[-1].softmax(-1).max().item()
    assert f"{best:.1%}" in made[3].text.splitlines()[0]


def test_few_colours_look_the_same_and_are_light():
    def drawn(colours):
        made, ax = figure(6, 3)
        ax.imshow(torch.arange(60.0).view(6, 10), cmap="viridis")
        ax.plot([0, 9], [0, 5], color="red")
        return finish(made, "a slope", colours=colours)

    few, many = drawn(128), drawn(256)
    was, now = (np.asarray(Image.open(io.BytesIO(one.png)).convert("RGB"), dtype=int) for one in (many, few))
    assert (abs(was - now).max(-1) > 40).mean() < 0.001 and len(few.png) < 12_000


def test_the_best_head_is_the_one_that_looks_hardest(rec):
    layer, head = best_head(rec, looks="dark", at="Finn")
    i, j = len(rec.labels) - 1 - rec.labels[::-1].index("dark"), len(rec.labels) - 1 - rec.labels[::-1].index("Finn")
    assert rec.weights[layer, head, i, j] == rec.weights[:, :, i, j].max()
    with pytest.raises(ValueError, match="no token here is called 'zebra'"):
        best_head(rec, looks="dark", at="zebra")


def test_an_empty_text_is_refused(tiny):
    with pytest.raises(ValueError, match="The text is empty"):
        record(*tiny, "  ")


def test_the_map_counts_the_hours_and_says_what_is_missing():
    assert len(course.CHAPTERS) == 15 and max(chapter.minutes for chapter in course.CHAPTERS) <= 90
    assert sum(chapter.minutes for chapter in course.CHAPTERS) <= 18 * 60
    lines = course.table().splitlines()
    for chapter, line in zip(course.CHAPTERS, lines, strict=False):
        assert ("not written yet" in line) != chapter.written
    listed = {chapter.file for chapter in (*course.CHAPTERS, *course.APPENDICES)}
    assert {p.name for p in course.NOTEBOOKS.glob("*.ipynb")} <= listed


def test_library_source_is_folded_and_is_the_library_s():
    import inspect

    from minimistral import attention, rope
    from minimistral.widgets.source import source

    shown = source(attention.attend, rope)._repr_mimebundle_()
    assert shown["text/plain"].startswith(inspect.getsource(attention.attend).rstrip())
    assert inspect.getsource(rope).rstrip() in shown["text/plain"]
    assert shown["text/html"].startswith("<details><summary") and " open" not in shown["text/html"].split(">")[0]
    assert "attend and minimistral.rope, from minimistral/attention.py" in shown["text/html"]


def test_folded_text_is_shut_and_escaped():
    page = Folded("more", "a < b")._repr_mimebundle_()
    assert page["text/plain"] == "a < b" and "<details>" in page["text/html"] and "a &lt; b" in page["text/html"]
