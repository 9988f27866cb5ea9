"""Training: against plain loops and formulas; stopped in every way and gone on with; whatever cannot be trained on."""

import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import small_config

import minimistral as mm
from minimistral import texts, train
from minimistral.bench import train as bench_train
from minimistral.cli import main
from minimistral.tiny import stories

CONFIG = small_config(window=4)  # 2 layers, 6 heads on 2, 40 ids
T, B = 12, 3


def batches(step):
    return torch.randint(CONFIG.vocab_size, (B, T + 1), generator=torch.Generator().manual_seed(step))


def weighted(step):
    return batches(step), torch.rand(B, T + 1, generator=torch.Generator().manual_seed(1000 + step))


def trained(rows=batches, steps=6, model=None, **options):
    model = model or train.new_model(CONFIG, seed=1)
    log = train.fit(model, rows, steps=steps, progress=False, **options)
    return model, log


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


# --- the arithmetic -------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_surprise_weighted_or_not():
    model, (ids, weights) = train.new_model(CONFIG, 3), weighted(0)
    total = plain = count = 0
    for b in range(B):
        for t in range(T):
            p = model(ids[b : b + 1, : t + 1])[0, -1].double().softmax(-1)[ids[b, t + 1]].item()
            total += -math.log(p) * weights[b, t + 1].item()
            count += weights[b, t + 1].item()
            plain += -math.log(p)
    assert train.loss(model, ids, weights).item() == pytest.approx(total / count, rel=1e-5)
    assert train.loss(model, ids).item() == pytest.approx(plain / (B * T), rel=1e-5)


def test_fit_is_the_loop_one_would_write():
    steps, lr, warm = 8, 1e-2, 3
    model = train.new_model(CONFIG, 1).requires_grad_(True)
    first = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    losses, rates = [], []
    for step in range(steps):
        if step <= warm:
            rate = lr * (0.01 + 0.99 * step / warm)
        else:
            rate = lr * (0.1 + 0.9 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2)
        rates.append(rate)
        ids = batches(step)
        value = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:])
        grads = torch.autograd.grad(value, list(model.parameters()))
        norm = math.sqrt(sum((g**2).sum().item() for g in grads))
        assert norm > 0.05 * 1.5  # so that clipping at 0.05 bites in each step
        for (name, p), g in zip(model.named_parameters(), grads, strict=True):
            g = g * 0.05 / norm
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.95 * second[name] + 0.05 * g**2
            m, v = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.95 ** (step + 1))
            decay = 0.1 if p.ndim == 2 else 0
            p.data = p.data * (1 - rate * decay) - rate * m / (v.sqrt() + 1e-8)
        losses.append(value.item())
    ours, log = trained(steps=steps, lr=lr, warmup=warm, clip=0.05)
    assert log.steps == list(range(steps)) and log.losses == pytest.approx(losses, rel=1e-4)
    assert log.tokens == steps * B * T and log.seconds > 0 and not log.interrupted and log.finished
    for (name, p), (_, q) in zip(model.named_parameters(), ours.named_parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-5), name


@pytest.mark.parametrize("total, warmup", [(40, 10), (300, 100), (9, 100), (1, 1), (2, 1)])
def test_the_rate_rises_and_falls_by_the_formula(total, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule, w = train.rise_and_fall(optimizer, total, warmup, final=0.2), min(warmup, total // 2)
    for n in range(total + 1):
        rising = 0.01 + 0.99 * n / w if n < w else 1
        falling = 0.2 + 0.8 * (1 + math.cos(math.pi * max(0, n - w) / (total - w))) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * rising * falling, rel=1e-5), n
        optimizer.step()
        schedule.step()


def test_with_seconds_it_stops_in_time_and_the_rate_follows_the_clock(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(train.time, "perf_counter", lambda: clock[0])
    seen = []

    def slow(step):
        clock[0] += 1.0  # a second a step
        return batches(step)

    def watch(log):
        seen.append(holder["optimizer"].param_groups[0]["lr"])

    holder, make = {}, train.adamw
    monkeypatch.setattr(train, "adamw", lambda *args: holder.setdefault("optimizer", make(*args)))
    _, log = trained(slow, steps=None, seconds=20, lr=1.0, log_every=1, watch=watch)
    assert len(log.steps) == 20 and log.seconds == 20
    for n in range(2, 20):  # after n seconds: a tenth of the time to rise, the rest to fall
        assert seen[n - 1] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * (n / 20 - 0.1) / 0.9)) / 2, rel=1e-3), n
    assert seen[0] == pytest.approx(0.01 + 0.99 * 0.5, rel=1e-3)


@pytest.mark.parametrize("rows", [batches, weighted])
def test_accumulated_batches_are_one_big_batch(rows):
    def big(step):
        three = [rows(3 * step + n) for n in range(3)]
        return torch.cat(three) if rows is batches else tuple(map(torch.cat, zip(*three, strict=True)))

    small, log = trained(rows, accumulate=3)
    large, expected = trained(big)
    assert log.losses == pytest.approx(expected.losses, rel=1e-5) and log.tokens == expected.tokens
    for (name, p), (_, q) in zip(small.named_parameters(), large.named_parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5), name


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, second = trained(weighted), trained(weighted)
    assert same(first[0], second[0]) and first[1].losses == second[1].losses
    assert not same(first[0], trained(weighted, model=train.new_model(CONFIG, 2))[0])


def test_it_learns_and_leaves_a_model_that_generates():
    def sentence(step):
        return torch.arange(T + 1).remainder(5)[None] + 3

    model, log = trained(sentence, steps=60, lr=1e-2)
    assert log.losses[0] == pytest.approx(math.log(40), abs=0.2) and log.losses[-1] < 0.1
    assert not model.training and not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert mm.generate(model, [[3, 4, 5]], 4, eos_id=None).tokens == [[6, 7, 3, 4]]


def test_training_takes_the_window_method_without_wasted_work(monkeypatch):
    """Long rows go through the triangles, backward too; and their gradients are those of a dense mask."""
    from minimistral import attention, window

    model, ids = train.new_model(CONFIG, 1), torch.randint(40, (1, 601))
    calls = []
    run = window._Triangles.backward
    monkeypatch.setattr(window._Triangles, "backward", staticmethod(lambda *args: calls.append(1) or run(*args)))
    train.backward(model, [(ids, None)])
    found = [p.grad.clone() for p in model.parameters()]
    assert len(calls) == CONFIG.n_layers
    model.zero_grad()
    monkeypatch.setattr(attention, "choose", lambda q, window: "dense")
    train.backward(model, [(ids, None)])
    assert len(calls) == CONFIG.n_layers
    assert all(torch.allclose(a, p.grad, atol=1e-6) for a, p in zip(found, model.parameters(), strict=True))


# --- what it learns from --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    told = list(stories.corpus(100, 0))
    return train.learn_vocabulary(told, 400, tmp_path_factory.mktemp("vocabulary") / "tokenizer.model")


def test_rows_are_a_function_of_seed_and_step(tokenizer):
    told = list(stories.corpus(5, 0))
    for make in (lambda seed: train.from_texts(told, tokenizer, 20, 4, seed),
                 lambda seed: train.from_stories(tokenizer, 20, 4, seed)):  # fmt: skip
        rows, again = make(0), make(0)
        assert rows(7).shape == (4, 21) and rows(7).dtype == torch.int64
        assert torch.equal(rows(7), again(7)) and torch.equal(rows(0), again(0))
        assert not torch.equal(rows(7), rows(8)) and not torch.equal(rows(7), make(1)(7))
        assert not torch.equal(rows(8), make(1)(7))  # another seed is not the same rows a step later


def test_rows_of_texts_are_pieces_of_them_with_their_bounds(tokenizer, tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "b.txt").write_text("\ufeffOne fox.\nTwo hens.", encoding="utf-8")
    (tmp_path / "deeper" / "a.md").write_text("Grün 東京 🐉", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\0\1")
    assert train.read_folder(tmp_path) == ["One fox.\nTwo hens.", "Grün 東京 🐉"]
    line = [n for text in train.read_folder(tmp_path) for n in tokenizer.encode(text, bos=True, eos=True)]
    rows = train.from_folder(tmp_path, tokenizer, 6, 50)(0).tolist()
    pieces = [line[n : n + 7] for n in range(len(line) - 6)]
    assert all(row in pieces for row in rows) and {tuple(row) for row in rows} >= {tuple(pieces[0]), tuple(pieces[-1])}


def test_rows_of_stories_begin_with_a_story_and_never_come_twice(tokenizer):
    rows = train.from_stories(tokenizer, 150, 8)
    drawn = [tuple(row) for step in range(5) for row in rows(step).tolist()]
    assert len(set(drawn)) == 40 and all(row[0] == tokenizer.bos_id for row in drawn)


def test_a_vocabulary_spells_anything_and_is_learned_the_same_twice(tokenizer, tmp_path):
    for text in ("Once upon a time", "Zürich, 東京, 🐉!", "tabs\tand\nlines", " two  spaces "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    again = train.learn_vocabulary(stories.corpus(100, 0), 400, tmp_path / "tokenizer.model")
    assert again.path.read_bytes() == tokenizer.path.read_bytes() and again.vocab_size == 400


def test_a_vocabulary_the_texts_do_not_allow_is_refused_with_the_size_they_do(tmp_path):
    few = ["The cat sat on the mat."] * 3
    said = r"at most (\d+) ids, and 5000 were asked for: take \1, or give more text"
    with pytest.raises(train.VocabularyError, match=said) as most:
        train.learn_vocabulary(few, 5000, tmp_path / "t.model")
    assert train.learn_vocabulary(few, most.value.possible, tmp_path / "t.model").vocab_size == most.value.possible
    with pytest.raises(train.VocabularyError, match=r"at most"):
        train.learn_vocabulary(few, most.value.possible + 1, tmp_path / "u.model")
    with pytest.raises(train.VocabularyError, match=r"need at least \d+ ids.* and 100 were asked for") as least:
        train.learn_vocabulary(few, 100, tmp_path / "u.model")
    assert train.learn_vocabulary(few, least.value.possible, tmp_path / "v.model").vocab_size == least.value.possible
    with pytest.raises(train.VocabularyError, match="There is no text"):
        train.learn_vocabulary(["", "\n"], 300, tmp_path / "u.model")
    assert not (tmp_path / "u.model").exists()


def empty(folder):
    pass


def no_texts(folder):
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")


def blank(folder):
    (folder / "a.txt").write_text("\n \n")


def binary(folder):
    (folder / "good.txt").write_text("good")
    (folder / "a.txt").write_bytes(b"PK\3\4\0\0")


def latin(folder):
    (folder / "a.md").write_bytes("Gr\u00fcn".encode("latin-1"))


def tiny(folder):
    (folder / "a.txt").write_text("Too short.")


@pytest.mark.parametrize(
    "prepare, words",
    [
        (empty, r"holds nothing; put texts into it, in files that end in \.txt"),
        (no_texts, r"holds 1 files of other kinds \(photo.jpg"),
        (blank, r"The 1 text files in .* are empty"),
        (binary, r"a\.txt is binary \(byte 0 at place 4\): take it out"),
        (latin, r"a\.md is not UTF-8 text \(byte 0xfc at place 2\)"),
        (tiny, r"The texts have \d+ tokens, and one row needs T \+ 1 = 65: give more text, or a smaller T"),
    ],
)
def test_folders_nothing_can_be_learned_from(prepare, words, tokenizer, tmp_path):
    prepare(tmp_path)
    with pytest.raises(texts.TextError, match=words):
        train.from_folder(tmp_path, tokenizer, 64, 2)
    with pytest.raises(ValueError, match="nowhere is not there"):
        train.from_folder(tmp_path / "nowhere", tokenizer, 64, 2)


def test_the_shortest_text_that_makes_a_row_does(tokenizer):
    ids = tokenizer.encode("Just enough.", bos=True, eos=True)
    assert train.from_texts(["Just enough."], tokenizer, len(ids) - 1, 2)(0).tolist() == [ids, ids]
    with pytest.raises(texts.TextError, match="T is 0"):
        train.from_texts(["Just enough."], tokenizer, 0, 2)


# --- stopping and going on ------------------------------------------------------------------------------------------------


PROGRAM = """
import sys, time
from minimistral import train
loaded = set(sys.modules)
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
torch.set_num_threads(1)
import test_train as t
{body}
"""


def process(body, folder):
    program = PROGRAM.format(tests=str(Path(__file__).parent), body=textwrap.dedent(body).format(folder=str(folder)))
    return subprocess.Popen([sys.executable, "-u", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_in_the_middle_of_writing_it_goes_on_from_the_checkpoint_before(tmp_path):
    """kill -9 while half of the checkpoint of step 6 is on the disk: that of step 3 is whole, and 12 steps end the same."""
    killed = process("""
        write = Path.write_bytes
        count = 0
        def half(path, data):
            global count
            count += 1
            if count < 3:
                return write(path, data)
            write(path, data[: len(data) // 2])
            print("half written", flush=True)
            time.sleep(60)
        Path.write_bytes = half
        t.trained(steps=12, folder={folder!r}, every=3)
        """, tmp_path)
    assert killed.stdout.readline() == "half written\n"
    killed.kill()
    killed.communicate()
    assert {path.name for path in tmp_path.iterdir()} == {"training.pt", "training.pt.part"}
    model = train.new_model(CONFIG, seed=7)  # whatever it was, the checkpoint decides
    _, log = trained(model=model, steps=12, folder=tmp_path, every=3, resume=True)
    whole, expected = trained(steps=12)
    assert same(model, whole) and log.losses == expected.losses and log.steps == list(range(12))
    assert same(mm.load(tmp_path, device="cpu")[0], whole)


def test_ctrl_c_ends_the_step_and_says_how_to_go_on(tmp_path):
    interrupted = process("""
        model, log = t.trained(steps=100000, folder={folder!r}, log_every=1, watch=lambda log: print("step", flush=True))
        print(log.interrupted, len(log.steps), model.training)
        print({{"matplotlib", "IPython", "sentencepiece", "transformers"}} & loaded)
        """, tmp_path)
    assert interrupted.stdout.readline() == "step\n"
    interrupted.send_signal(signal.SIGINT)
    out, err = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 0, err
    stopped, n, training = out.splitlines()[-2].split()
    assert (stopped, training) == ("True", "False") and int(n) < 100000
    assert out.endswith("set()\n")  # importing train loads nothing heavy
    assert f"Stopped after step {n}: fit(..., folder={str(tmp_path)!r}, resume=True) goes on from there." in out
    found = torch.load(tmp_path / "training.pt")
    assert len(found["log"]["steps"]) == int(n)
    assert same(mm.load(tmp_path, device="cpu")[0], trained(stop_after(int(n)), steps=100000)[0])


def stop_after(n):
    """Rows for n steps, the last of which presses Ctrl-C."""

    def rows(step):
        if step == n - 1:
            signal.raise_signal(signal.SIGINT)
        return batches(step)

    return rows


@pytest.mark.parametrize("rows", [batches, weighted])
def test_stopped_and_gone_on_with_it_is_the_same_bit_for_bit(rows, tmp_path, capsys):
    def until_five(step):
        if step == 4:
            signal.raise_signal(signal.SIGINT)
        return rows(step)

    options = dict(steps=12, lr=1e-2, warmup=7, folder=tmp_path, every=100)
    _, log = trained(until_five, **options)
    assert log.interrupted and len(log.steps) == 5 and "Stopped after step 5" in capsys.readouterr().out
    model, log = trained(rows, model=train.new_model(CONFIG, 9), resume=True, **options)
    whole, expected = trained(rows, steps=12, lr=1e-2, warmup=7)
    assert same(model, whole) and log.losses == expected.losses and not log.interrupted
    before = signal.getsignal(signal.SIGINT)
    again, log = trained(rows, model=train.new_model(CONFIG, 9), resume=True, **options)  # all done: nothing to do
    assert same(again, whole) and len(log.steps) == 12 and signal.getsignal(signal.SIGINT) is before


def test_rows_drawn_from_pytorchs_own_random_numbers_go_on_too(tmp_path):
    def drawn(step):
        return torch.randint(CONFIG.vocab_size, (B, T + 1))

    torch.manual_seed(5)
    start = torch.get_rng_state()
    trained(drawn, steps=9, folder=tmp_path, every=4)  # leaves its last checkpoint at the end
    torch.set_rng_state(start)
    whole, _ = trained(drawn, steps=9)
    torch.set_rng_state(start)
    with pytest.raises(RuntimeError, match="power cut"):
        trained(lambda step: cut() if step == 7 else drawn(step), steps=9, folder=tmp_path, every=4)
    assert same(trained(drawn, steps=9, folder=tmp_path, every=4, resume=True)[0], whole)


def cut():
    raise RuntimeError("power cut")


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    def rows(step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return batches(step)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trained(rows, steps=5)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_full_disk_leaves_the_old_checkpoint_and_no_half_file(tmp_path, monkeypatch):
    write, written = Path.write_bytes, []

    def until_full(path, data):
        written.append(path)
        if len(written) < 3:
            return write(path, data)
        write(path, data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", until_full)
    said = r"No space left on device\); the last good checkpoint is .*training\.pt, of step 3\. Make room"
    with pytest.raises(train.TrainingError, match=said):
        trained(steps=12, folder=tmp_path, every=3)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["training.pt"]
    assert same(trained(steps=12, folder=tmp_path, every=3, resume=True)[0], trained(steps=12)[0])


def test_a_folder_that_takes_nothing_is_refused_at_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(train.TrainingError, match=r"Nothing could be written to .*file.*; there is no checkpoint yet"):
        trained(folder=tmp_path / "file")


@pytest.mark.parametrize(
    "folder, said", [(True, r"last good checkpoint is .*training\.pt, of step 6\."), (False, "no folder was given")]
)
def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(folder, said, tmp_path):
    def rows(step):
        ids, weights = weighted(step)
        return ids, weights * (math.nan if step == 7 else 1)

    options = dict(folder=tmp_path if folder else None, every=2)
    model = train.new_model(CONFIG, 1)
    with pytest.raises(train.TrainingError, match=f"At step 7 the loss is nan .*{said}"):
        trained(rows, model=model, steps=9, **options)
    assert all(p.isfinite().all() for p in model.parameters()) and not model.training
    if folder:
        assert same(trained(weighted, steps=9, resume=True, **options)[0], trained(weighted, steps=9)[0])


def test_a_gradient_that_is_no_number_stops_too():
    def explode(grad):
        return grad * math.inf

    model = train.new_model(CONFIG, 1)
    model.output.weight.register_hook(explode)
    with pytest.raises(train.TrainingError, match="At step 0 the loss is 3.* the length of its gradient (inf|nan); there is no"):
        trained(model=model)


def test_only_the_same_training_goes_on(tmp_path):
    trained(steps=3, folder=tmp_path)
    other = train.new_model(small_config(window=5, n_layers=3), 1)
    kept = {name: p.clone() for name, p in other.named_parameters()}
    said = "another model: n_layers was 2 and is 3, sliding_window was 4 and is 5. Go on with the same"
    with pytest.raises(train.TrainingError, match=said):
        trained(model=other, steps=3, folder=tmp_path, resume=True)
    assert all(torch.equal(p, kept[name]) for name, p in other.named_parameters())
    with pytest.raises(train.TrainingError, match="another training: steps was 3 and is 5, lr was 0.002 and is 0.1"):
        trained(steps=5, lr=0.1, folder=tmp_path, resume=True)
    with pytest.raises(train.TrainingError, match="no .*training.pt to go on from"):
        trained(folder=tmp_path / "other", resume=True)
    for damaged in (b"", b"no checkpoint", (tmp_path / "training.pt").read_bytes()[:-200], saved({"model": 1})):
        (tmp_path / "training.pt").write_bytes(damaged)
        with pytest.raises(train.TrainingError, match="training.pt is no checkpoint of train.fit()"):
            trained(steps=3, folder=tmp_path, resume=True)


def saved(thing):
    data = io.BytesIO()
    torch.save(thing, data)
    return data.getvalue()


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(steps=None), "Neither steps nor seconds"),
        (dict(steps=0), "steps is 0"),
        (dict(accumulate=1.5), "accumulate is 1.5"),
        (dict(every=0), "every is 0"),
        (dict(lr=-1), "lr is -1"),
        (dict(clip=0), "clip is 0"),
        (dict(seconds=math.nan), "seconds is nan"),
        (dict(resume=True), "resume is True and folder is None"),
        (dict(model=train.new_model(CONFIG, 1).bfloat16()), "bfloat16, in which small updates round to nothing"),
        (dict(rows=lambda step: torch.zeros(3, 1, dtype=torch.int64)), r"batches\(0\) gave ids \(3, 1\)"),
        (dict(rows=lambda step: torch.zeros(3, 5)), r"float32; expected \(B, T \+ 1\) int64"),
    ],
)
def test_settings_that_do_not_work(options, words):
    with pytest.raises(train.TrainingError, match=words):
        trained(**options)


def test_rows_that_never_cross_the_window_are_trained_on_with_a_warning(recwarn):
    with pytest.warns(UserWarning, match="Rows of T = 4 tokens never cross the window of W = 4"):
        trained(lambda step: batches(step)[:, :5], steps=1)
    recwarn.clear()
    trained(lambda step: batches(step)[:, :6], steps=1)
    assert not recwarn.list


# --- what one sees --------------------------------------------------------------------------------------------------------


def test_the_watch_is_called_every_so_often_and_at_the_end():
    seen = []
    trained(steps=7, log_every=3, watch=lambda log: seen.append((len(log.steps), log.finished)))
    assert seen == [(3, False), (6, False), (7, True)]


def test_the_log_shows_a_curve_and_says_it_in_words(capsys):
    _, log = trained(steps=30)
    bundle, _ = log._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG") and bundle["text/plain"] == repr(log)
    assert repr(log).startswith(f"30 steps; loss by step: {log.losses[0]:.2f} at 0, {log.losses[5]:.2f} at 5")
    assert repr(train.Log()) == "no step yet"


def test_the_live_curve_keeps_its_samples(tokenizer, capsys):
    config = small_config(window=4, vocab_size=400)
    model = train.new_model(config, 1)
    watch = train.LiveCurve(model, tokenizer, "The fox", tokens=5, pause=0)
    trained(train.from_stories(tokenizer, T, B), model=model, steps=4, log_every=2, watch=watch)
    assert [step for step, _ in watch.samples] == [2, 4, 4]
    assert all(text.startswith("The fox") for _, text in watch.samples) and "step 2: The fox" in capsys.readouterr().out


def test_the_bar_tells_loss_speed_and_time_left(capsys):
    train.fit(train.new_model(CONFIG, 1), batches, steps=3)
    err = capsys.readouterr().err
    assert "3/3" in err and "tokens/s" in err and "loss 3." in err


def test_the_measurement_against_transformers_is_of_the_same_model(monkeypatch, capsys):
    from minimistral import bench

    small = dict(dim=24, n_heads=6, n_kv_heads=2, head_dim=4, hidden_dim=16, sliding_window=5)
    monkeypatch.setattr(bench_train, "SETTINGS", {"T = 4 W": (small, 2, 20)})
    record = bench_train.run(rounds=2, seconds=1)
    result = record["results"]["T = 4 W"]
    assert result["losses_differ"] < 1e-5 and {len(taken) for taken in result["seconds"].values()} == {2}
    assert bench_train.table(record) in capsys.readouterr().out and "2 rows of 20 tokens" in bench_train.table(record)
    assert "tokens/s" in str(bench.table(record)) and json.loads(json.dumps(record)) == record


# --- the command ----------------------------------------------------------------------------------------------------------

SMALL = ["--layers", "1", "--dim", "32", "--window", "8", "--seq-len", "24", "--batch-size", "4"]


def command(*arguments):
    return main(["train", *map(str, arguments)])


def test_the_command_trains_on_a_folder_of_ones_own_and_generate_opens_it(tmp_path, capsys):
    own, out = tmp_path / "own", tmp_path / "model"
    own.mkdir()
    (own / "tales.txt").write_text("\n\n".join(stories.corpus(30, 0)))
    assert command(own, "--out", out, "--steps", 12, "--prompt", "The fox", *SMALL) == 0
    said = capsys.readouterr()
    assert "The fox" in said.out + said.err and f"minimistral generate --folder {out}" in said.out
    model, tokenizer = mm.load(out, device="cpu")
    assert (model.config.sliding_window, model.config.n_layers, model.config.dim) == (8, 1, 32)
    assert 300 < tokenizer.vocab_size <= 1024  # what the texts allow
    assert main(["generate", "--folder", str(out), "The fox", "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("The fox")


def test_the_command_goes_on_with_a_folder_from_elsewhere(tmp_path, tokenizer, capsys, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tales.txt").write_text("\n\n".join(stories.corpus(3, 0)))
    monkeypatch.chdir(tmp_path)
    assert command("own", "--out", "model", "--steps", 2, "--tokenizer", tokenizer.path, *SMALL) == 0
    monkeypatch.chdir(tmp_path / "own")
    assert command("--out", "../model", "--resume") == 0
    assert command("../own/", "--out", "../model", "--resume", "--window", 9) == 2
    assert "was begun with --window 8" in capsys.readouterr().err


def test_the_command_goes_on_and_takes_another_tokenizer(tmp_path, tokenizer, capsys):
    options = ["--steps", 8, "--every", 3, "--tokenizer", tokenizer.path, *SMALL]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert command("stories", "--out", whole, *options) == 0
    assert (whole / "tokenizer.model").read_bytes() == tokenizer.path.read_bytes()
    make = train.from_stories

    def pressed(**how):
        rows = make(**how)
        return lambda step: (signal.raise_signal(signal.SIGINT) if step == 4 else None, rows(step))[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "from_stories", pressed)
        assert command("stories", "--out", broken, *options) == 130
    assert f"To go on: minimistral train --out {broken} --resume" in capsys.readouterr().out
    assert command("--out", broken, "--resume", "--steps", 9) == 2
    assert "was begun with --steps 8" in capsys.readouterr().err
    assert command("--out", broken, "--resume") == 0
    assert same(mm.load(broken, device="cpu")[0], mm.load(whole, device="cpu")[0])


def test_the_command_writes_nothing_where_it_cannot_train(tmp_path, tokenizer, capsys):
    short, out = tmp_path / "short", tmp_path / "out"
    short.mkdir()
    (short / "a.txt").write_text("The cat sat on the mat. " * 3)
    (tmp_path / "file").write_text("")
    for arguments, words in (
        ([tmp_path / "none"], "is not there; give a folder with texts"),
        ([short], "tokens, and one row needs T + 1 = 257"),
        ([short, "--vocab-size", 3000], "at most"),
        (["stories", "--seq-len", 64], "--seq-len is 64 and --window 64: training would never look past the window"),
        (["stories", "--dim", 20], "--dim is 20: expected a multiple of 16"),
        (["stories", "--tokenizer", tmp_path / "none"], "is not a file; expected a SentencePiece"),
        (["--resume"], "holds no training to go on with"),
    ):
        assert command(*arguments, "--out", out) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said
        assert not out.exists()
    assert command("stories", "--out", tmp_path / "file", "--steps", 1, "--tokenizer", tokenizer.path, *SMALL) == 2
    assert "file" in capsys.readouterr().err
    out.mkdir()
    (out / "params.json").write_text(json.dumps({}))
    assert command("stories", "--out", out) == 2 and "already holds a model" in capsys.readouterr().err


def test_what_is_refused_is_refused_before_and_between_steps():
    model, good = train.new_model(CONFIG, 1), dict(steps=3, seconds=None, lr=1e-3, clip=1.0, accumulate=1)
    train.check_settings(model, good, 1, 1, None, False)
    for change, words in ((dict(steps=0), "steps is 0"), (dict(lr=-1.0), "lr is -1.0"), (dict(steps=None), "Neither steps nor")):
        with pytest.raises(train.TrainingError, match=words):
            train.check_settings(model, good | change, 1, 1, None, False)
    train.check_rows(torch.zeros(2, 9, dtype=torch.int64), 4, step=0)
    with pytest.raises(train.TrainingError, match=r"gave ids \(2, 1\)"):
        train.check_rows(torch.zeros(2, 1, dtype=torch.int64), 4, step=0)
    train.check_number(1.0, 2.0, 3, "no checkpoint")
    with pytest.raises(train.TrainingError, match="At step 3 the loss is nan and the length of its gradient 2.0; no checkpoint"):
        train.check_number(float("nan"), 2.0, 3, "no checkpoint")
