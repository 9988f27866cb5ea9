"""Showing the tiny model where to look: the places are right, the loss is the attention's, and it can be followed."""

import random
import re
from dataclasses import replace
from itertools import islice

import pytest
import torch

import minimistral as mm
from minimistral import attention
from minimistral.tiny import looks, stories, train

CONFIG = mm.MistralConfig(
    dim=32, n_layers=3, n_heads=8, n_kv_heads=2, head_dim=4, hidden_dim=48, vocab_size=2048, sliding_window=64
)
BUYING = "Hana had to buy tea, and Sam had to buy fish."
SWAPPED = "Hana gave the key to Tom, and Tom gave the ring to Hana."


@pytest.fixture(scope="module")
def tokenizer():
    return mm.load_tiny()[1]


def asks(prompt, answer, fact, about):
    return stories.Recall("object", prompt, answer, (answer,), 0, fact, about)


@pytest.mark.parametrize(
    "fact, then, answer, about, later, earlier, asked",
    [
        (BUYING, "They ran. Hana asked for", "tea", ("Hana",), "tea", "Hana", "ran. Hana"),
        (BUYING, "Who buys fish? It is", "Sam", ("fish",), "buy fish", "and Sam", "buys fish"),
        # told twice in the fact: the two that stand together
        (SWAPPED, "Hana looked at the", "ring", ("Hana",), "to Hana", "the ring", ". Hana"),
        (SWAPPED, "Tom looked at the", "key", ("Tom",), "to Tom", "the key", ". Tom"),
        # asked for by whichever word of the two came last
        (BUYING, "The tea of Hana is", "tea", ("Hana", "tea"), "buy tea", "Hana", "tea of Hana"),
    ],
)
def test_the_words_that_lead_to_an_answer(fact, then, answer, about, later, earlier, asked):
    prompt = f"It was night. {fact} {then}"
    owners, (at, found) = looks.links(asks(prompt, answer, fact, about))
    assert prompt[: owners[0][0]].endswith(later) and prompt[: owners[0][1]].endswith(earlier)
    assert prompt[:at].endswith(asked) and found == owners[0][0]
    start = prompt.index(fact)
    assert all(start < a <= start + len(fact) < at for a in owners[0])


def test_what_nothing_told_asks_for_is_left_out():
    assert looks.links(asks(f"{BUYING} They asked for", "tea", BUYING, ("Hana",)))[1] is None
    assert looks.links(asks(f"{BUYING} Hana asked for", "tea", BUYING, ("Rosa",))) == ([], None)


def test_a_storys_places_are_those_of_its_words(tokenizer):
    """In every plot: an answer follows its look, and what is found was told with it."""
    seen = set()
    for n in range(150):
        story = stories.story(random.Random(n))
        row = looks.story_row(tokenizer, story, 20)
        assert row.ids == tokenizer.encode(story.text, bos=True, eos=True)
        text = [tokenizer.decode(row.ids[: n + 1]) for n in range(len(row.ids))]  # up to and with each token
        answers = {}
        for recall in story.recalls:
            span = looks.answer_span(tokenizer, recall.prompt, recall.answer)
            answers[span.start - 1] = recall
            assert all(row.weights[n] == 20 for n in span)
            assert text[span.start - 1] == recall.prompt and text[span.stop - 1] == f"{recall.prompt} {recall.answer}"
        assert sum(weight == 20 for weight in row.weights) == sum(
            len(looks.answer_span(tokenizer, recall.prompt, recall.answer)) for recall in story.recalls
        )
        for kind, at, to in row.looks:
            assert to < at
            word = re.findall(r"[A-Za-z]+$", text[to])[0]
            if kind == "owner":
                assert any(word in (*" ".join(r.about).split(), r.answer) for r in story.recalls), (word, text[at])
                continue
            recall = answers[at]
            told = recall.prompt.rfind(recall.fact)
            assert word in {*" ".join(recall.about).split(), recall.answer}, (kind, word, recall)
            if kind == "found":
                assert told < len(text[to]) <= told + len(recall.fact)
                seen.add(recall.kind)
            else:
                assert len(text[to]) > told + len(recall.fact)
    assert len(seen) >= 8, seen


@pytest.mark.parametrize("turned", [0, 0.5])
def test_a_drill_asks_for_what_it_told(tokenizer, turned):
    """Read back from its text: "who had what" tells and asks, "what for who" tells only."""
    turns = 0
    for row in islice(looks.drill_rows(tokenizer, 120, 4, 7.0, turned), 12):
        assert len(row.ids) == len(row.weights) == 121
        sentences = [found.groups() for found in re.finditer(r"\s*([^.]+?) (had|for) ([^.]+)\.", tokenizer.decode(row.ids))]
        turns += sum(verb == "for" for _, verb, _ in sentences)
        pairs = [(a, b) if verb == "had" else (b, a) for a, verb, b in sentences]
        owns = dict(pairs)
        assert 1 < len(owns) <= 8 and all(owns[who] == what for who, what in pairs) and len(pairs) > len(owns)
        asked = [what for n, (who, what) in enumerate(pairs) if sentences[n][1] == "had" and who in dict(pairs[:n])]
        answers = "".join(tokenizer.decode([n]) for n, weight in zip(row.ids, row.weights, strict=True) if weight == 7)
        assert answers.replace(" ", "").startswith("".join(asked).replace(" ", ""))
        for kind, at, to in row.looks:
            if at < len(row.ids) and kind == "found":  # the last thing told of the same owner, from its last word
                before, there = tokenizer.decode(row.ids[: at + 1]), tokenizer.decode(row.ids[: to + 1])
                who = re.findall(r"([^.]+) had$", before)[0].strip()
                ways = (f"{who} had {owns[who]}", f"{owns[who]} for {who}")
                assert there.endswith(ways) and not any(way in before[len(there) :] for way in ways)
    assert (turns > 0) == (turned > 0)


def test_only_what_can_be_followed_is_shown():
    rows = [looks.Row(list(range(9)), [1.0] * 9, [("found", 7, 4), ("found", 7, 3), ("owner", 8, 7), ("asked", 2, 2)])]
    ids, weights, places = looks.batch(rows, window=4)
    assert ids.shape == weights.shape == (1, 9)
    assert places["found"].T.tolist() == [[0, 7, 4]] and places["asked"].T.tolist() == [[0, 2, 2]]
    assert places["owner"].shape == (3, 0)  # place 8 is only predicted, never read


def test_rows_are_put_together_with_their_looks():
    row = looks.Row([1, 2], [1.0, 2.0], [("owner", 1, 0)]) + looks.Row([3], [0.0], [("found", 0, 0)])
    assert row == looks.Row([1, 2, 3], [1.0, 2.0, 0.0], [("owner", 1, 0), ("found", 2, 2)])


def test_the_look_loss_is_the_attentions_own_weight(tokenizer):
    """Against what attention_of() says the heads do, in a model whose windows bite."""
    torch.manual_seed(0)
    config = replace(CONFIG, sliding_window=20)
    model = train.born(config, seed=3).requires_grad_(False)
    rows = [*islice(looks.story_rows(tokenizer, 90, 1, 20), 2), *islice(looks.drill_rows(tokenizer, 90, 1, 20), 2)]
    ids, _, places = looks.batch(rows, config.sliding_window)
    logits, kept = looks.read(model, ids[:, :-1])
    assert torch.allclose(logits, model(ids[:, :-1]), atol=1e-4)
    given = attention.attention_of(model, ids[:, :-1])  # (L, B, H, T, T)
    wanted = 0.0
    for kind, (row, at, to) in places.items():
        assert len(row) > 20
        for head in looks.HEADS:
            each = [given[looks.LAYERS[kind], b, head, i, j].log() for b, i, j in zip(row, at, to, strict=True)]
            wanted -= torch.stack(each).mean().item()
    assert looks.look_loss(kept, places, config.sliding_window).item() == pytest.approx(wanted, rel=1e-4)
    nothing = {kind: torch.empty(3, 0, dtype=torch.int64) for kind in looks.LAYERS}
    assert looks.look_loss(kept, nothing, config.sliding_window).item() == 0


def test_heads_are_born_comparing_and_repeating():
    model, D = train.born(CONFIG, seed=1), CONFIG.head_dim
    found = model.layers[looks.LAYERS["found"]].attention
    for head, shared in zip(looks.HEADS, (0, 1), strict=True):
        assert torch.equal(found.wq.weight[head * D : head * D + D], found.wk.weight[shared * D : shared * D + D])
        for layer in set(looks.LAYERS.values()):
            one = model.layers[layer].attention
            assert torch.equal(one.wo.weight[:, head * D : head * D + D], 2 * one.wv.weight[shared * D : shared * D + D].T)
    assert torch.equal(model.output.weight, 0.02 * model.tok_embeddings.weight)
    assert torch.isfinite(model(torch.arange(9)[None])).all()


def test_it_learns_to_look_and_twice_the_same(tokenizer, capsys):
    stage = train.Stage("short", 8, 3e-3, stories=1, drills=3, looks=1, weight=20, length=64)

    def learned():
        model = train.born(CONFIG, seed=2)
        log = train.learn(model, tokenizer, stage, seed=5)
        ids, _, places = looks.batch(train.rows_of(stage, tokenizer, "new"), CONFIG.sliding_window)
        return model.state_dict(), log.losses, looks.look_loss(looks.read(model, ids[:, :-1])[1], places, 64).item()

    (first, losses, after), (second, again, _) = learned(), learned()
    assert all(torch.equal(first[name], second[name]) for name in first) and losses == again
    ids, _, places = looks.batch(train.rows_of(stage, tokenizer, "new"), CONFIG.sliding_window)
    before = looks.look_loss(looks.read(train.born(CONFIG, seed=2), ids[:, :-1])[1], places, 64).item()
    assert losses[-1] < losses[0] and after < before
