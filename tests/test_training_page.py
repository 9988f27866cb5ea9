"""Chapter 09: the exercises' answers agree with the trainer, and the pictures and words of its page say what is there."""


import pytest
import torch
from helpers import random_ids, small_model

import minimistral as mm
from minimistral import masks, train
from minimistral.exercises import training as ex
from minimistral.exercises.frame import difference
from minimistral.reach import cliff
from minimistral.tiny import stories
from minimistral.widgets import training as view
from minimistral.widgets.picture import Picture
from minimistral.widgets.record import record

PNG = b"\x89PNG\r\n\x1a\n"


# --- the exercises are the trainer's own parts ----------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_trainers(weighted):
    model, ids = small_model(window=4), random_ids(3, 9)
    weights = torch.rand(3, 9, generator=torch.Generator().manual_seed(0)) if weighted else None
    with torch.no_grad():
        mine = ex.next_token_loss.answer(model(ids), ids, torch.ones(3, 9) if weights is None else weights)
        assert torch.allclose(mine, train.loss(model, ids, weights), atol=1e-6)


def test_a_gradient_flows_through_the_loss():
    logits = torch.randn(2, 5, 7, requires_grad=True)
    ex.next_token_loss.answer(logits, random_ids(2, 5, vocab_size=7), torch.ones(2, 5)).backward()
    assert logits.grad[:, :-1].abs().sum() > 0 and logits.grad[:, -1].abs().sum() == 0


@pytest.mark.parametrize("broken", [torch.detach, lambda loss: loss.detach() + 0 * loss, lambda loss: torch.tensor(loss.item())])
def test_a_loss_that_trains_nothing_is_refused(broken, capsys):
    """Right numbers whose gradient is missing, or wrong; the real mistakes of others are tested with all exercises."""
    right = ex.next_token_loss.rights[0]
    ex.next_token_loss.check(lambda *case: broken(right(*case)))
    ex.next_token_loss.why()
    said = capsys.readouterr().out
    assert "no gradient" in said and "yours is right" not in said


@pytest.mark.parametrize("steps, warmup, final", [(20, 6, 0.1), (30, 1, 0.0), (12, 0, 0.5), (40, 19, 1.0)])
def test_the_schedule_is_the_trainers(steps, warmup, final):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3.0)
    schedule = train.rise_and_fall(optimizer, steps, warmup, final)
    for step in range(steps):
        rate = optimizer.param_groups[0]["lr"]
        assert difference(rate, ex.learning_rate.answer(step, steps, 3.0, warmup, final), 1e-9) is None, step
        optimizer.step()
        schedule.step()


def test_steps_in_parts_are_the_trainers():
    """The same losses as train.backward() with clipping and AdamW around it, on a model that crosses its window."""
    rows = [[random_ids(B, 9, seed=10 * n + B) for B in parts] for n, parts in enumerate([(1, 3), (2,), (4, 1, 2)])]

    def start():
        model = small_model(window=4, n_layers=2).requires_grad_(True)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-2)

    model, optimizer = start()
    losses = []
    for parts in rows:
        losses.append(train.backward(model, [(ids, None) for ids in parts]))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    assert difference(losses, ex.train_steps.answer(start, rows, 0.5), 1e-5) is None


def test_planted_rows_are_those_of_the_cliff():
    """From the rows' own noise, animals and distances `plant` makes the very rows."""
    ids, weights = cliff.facts(seed=5, n=20, longest=13)
    answers = ids[:, -1]
    told = (ids[:, :-2] < cliff.ASK).int().argmax(1)
    filler = ids[:, :-1].clone()
    filler[torch.arange(20), told], filler[:, -1] = cliff.ASK + 1, cliff.ASK + 1
    made = ex.plant.answer(filler, answers, 13 - told, cliff.ASK)
    assert torch.equal(made[0], ids) and torch.equal(made[1], weights)


# --- heads ----------------------------------------------------------------------------------------------------------------


def test_the_attention_is_what_a_record_of_the_model_keeps():
    model, tokenizer = mm.load_tiny()
    text = next(stories.corpus(1, seed=10**9))
    kept = record(model, tokenizer, text)
    assert len(kept.labels) > 1.5 * model.config.sliding_window
    ids = torch.tensor([tokenizer.encode(text, bos=True)])
    assert torch.allclose(view.attention_of(model, ids)[:, 0], kept.weights, atol=1e-6)


def scored_by_hand(found, ids, window):
    """The two scores of every head in plain loops, and what an even spread would give."""
    L, B, H, T, _ = found.shape
    results = []
    for wanted in (lambda row, i, j: j == i - 1, lambda row, i, j: 0 < j < i and row[j - 1] == row[i]):
        total, even, asked = torch.zeros(L, H), 0.0, 0
        for b in range(B):
            for i in range(T):
                visible = [j for j in range(T) if masks.visible(i, j, window)]
                keys = [j for j in visible if wanted(ids[b].tolist(), i, j)]
                if keys:
                    asked += 1
                    even += len(keys) / len(visible)
                    total += found[:, b, :, i, keys].sum(-1)
        results.append((total / asked, even / asked))
    return results


def test_heads_are_scored_as_in_plain_loops():
    model, ids = small_model(window=7, n_layers=2), random_ids(2, 15, vocab_size=6)
    found = view.heads(model, ids)
    for mine, (scores, even) in zip(found, scored_by_hand(view.attention_of(model, ids), ids, 7), strict=True):
        assert torch.allclose(mine.scores, scores, atol=1e-6) and mine.even == pytest.approx(even)
        layer, head = mine.best
        assert scores[layer, head] == scores.max()


def test_planted_heads_are_found_where_they_are(monkeypatch):
    """Layer 1, head 2 looks one back; layer 0, head 3 at what came after this token last time."""
    ids = view.repeated(vocab_size=50, first=10, period=6, rows=3)
    assert ids.min() >= 10 and torch.equal(ids[:, :6], ids[:, 6:]) and all(len(set(row.tolist())) == 6 for row in ids)
    T, window = 12, 20
    model = small_model(window=window, n_layers=2)
    even = torch.ones(T, T).tril() / torch.arange(1.0, T + 1)[:, None]
    back = torch.eye(T).roll(-1, 1).tril()  # row i: all on i - 1
    back[0] = even[0]
    induct = even.clone()
    for i in range(6, T):
        induct[i] = torch.eye(T)[i - 5]
    weights = even.repeat(2, 3, 4, 1, 1)
    weights[1, :, 2], weights[0, :, 3] = torch.eye(T).roll(1, 0), induct
    weights[1, :, 2, 0] = even[0]
    monkeypatch.setattr(view, "attention_of", lambda *_: weights)
    before, after = view.heads(model, ids)
    assert before.best == (1, 2) and before.scores[1, 2] == pytest.approx(1)
    assert after.best == (0, 3) and after.scores[0, 3] == pytest.approx(1)
    assert after.scores[1, 0] == pytest.approx(after.even)
    assert "layer 0, head 3 gives it 100% of its weight" in str(after)
    drawn = view.head_maps(before, after)
    assert isinstance(drawn, Picture) and drawn.png.startswith(PNG) and "layer 1, head 2" in drawn.text


def test_heads_that_look_where_they_should_are_scored():
    model, ids = small_model(window=7, n_layers=2), random_ids(2, 15, vocab_size=6)
    mine = view.looking(model, ids, torch.tensor([[0, 0, 1], [5, 9, 14], [3, 2, 14]]), "somewhere")  # 9 does not see 2
    given = view.attention_of(model, ids)
    assert torch.allclose(mine.scores, (given[:, 0, :, 5, 3] + given[:, 1, :, 14, 14]) / 2, atol=1e-6)
    assert mine.even == pytest.approx((1 / 6 + 1 / 7) / 2) and mine.name == "somewhere"


def test_without_a_repetition_in_sight_heads_are_not_scored():
    with pytest.raises(ValueError, match="window of 5"):
        view.heads(small_model(window=5, n_layers=1), torch.arange(8)[None].repeat(1, 2))


# --- the other pictures and words -----------------------------------------------------------------------------------------


def test_the_pictures_say_their_numbers():
    drawn = view.rates(ex.learning_rate.answer, steps=50, peak=2.0, warmup=10, final=0.1)
    assert drawn.png.startswith(PNG) and "0.02 at step 0, 2 at step 10, 0.2 at step 50" in drawn.text
    drawn = view.losses({0.1: 7.5, 1.0: 6.123, 10.0: 11.0}, 7.62)
    assert "before the step      loss 7.62" in drawn.text and "learning rate 1     loss 6.12" in drawn.text


@pytest.mark.parametrize(
    "bet, forgotten, said",
    [(None, 31, "named no"), (31, 31, "to the token"), (24, 31, "7 too near"), (33, 31, "2 too far"), (31, None, "none of")],
)
def test_a_bet_is_told_how_it_went(bet, forgotten, said):
    assert said in view.bet_on_cliff(bet, forgotten)


def test_one_models_cliff_is_drawn_as_the_recorded_ones():
    model = train.new_model(cliff.config(1, 4, dim=16), seed=0)
    drawn = view.cliff_picture(model, {d: (250 if d <= 3 else 16, 256) for d in range(1, 9)})
    assert drawn.png.startswith(PNG) and "1 layer" in drawn.text and "window 4" in drawn.text
