"""The reach of a stack of windows: that the rows ask what they say, that L (W - 1) is exact, and that words follow counts."""

import json
import random
import re
from dataclasses import replace
from itertools import product

import pytest
import torch
from helpers import random_ids, small_model

import minimistral as mm
from minimistral import reach
from minimistral.cli import main
from minimistral.reach import cliff, runs, show, stories


def random_model(config, seed=0):
    """Weights large enough that whatever can be seen shows in the logits."""
    torch.manual_seed(seed)
    model = mm.Mistral(config).requires_grad_(False)
    for p in model.parameters():
        p.copy_(torch.randn(p.shape) * (0.3 if p.ndim == 2 else 1))
    return model


# --- the exact reach ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers, window", [(1, 2), (1, 5), (2, 4), (3, 3), (4, 6)])
def test_logits_know_of_exactly_L_times_W_minus_1_tokens_back(layers, window):
    """Bit for bit: another token at that distance changes the logits, one further back does not; and so says the gradient."""
    config = replace(cliff.config(layers, window, dim=16))
    model, far = random_model(config).double(), layers * (window - 1)
    assert cliff.exact_reach(config) == far
    T = far + 6
    ids = random_ids(1, T, vocab_size=config.vocab_size)
    plain = model(ids)[0, -1]
    for d in range(T):
        other = ids.clone()
        other[0, -1 - d] = (other[0, -1 - d] + 7) % config.vocab_size
        assert torch.equal(model(other)[0, -1], plain) == (d > far), d
    embedded = []
    model.tok_embeddings.register_forward_hook(lambda *args: embedded.append(args[-1].requires_grad_()) or embedded[-1])
    slope, = torch.autograd.grad(model(ids)[0, -1].square().sum(), embedded)
    assert slope[0].abs().sum(-1).ne(0).flip(0).tolist() == [d <= far for d in range(T)]


def test_the_reach_of_any_model_is_asked_of_its_config():
    assert cliff.exact_reach(small_model(window=7, n_layers=3).config) == 18
    assert cliff.exact_reach(small_model(window=1).config) == 0
    assert cliff.exact_reach(small_model().config) is None
    mistral = mm.MistralConfig(dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128, hidden_dim=14336, vocab_size=32000,
                               sliding_window=4096)
    assert cliff.exact_reach(mistral) == 131_040


# --- rows of the cliff ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("longest, distance", [(1, 1), (9, 1), (9, 9), (31, 17), (12, None)])
def test_a_row_holds_one_fact_at_its_distance_and_asks_at_its_end(longest, distance):
    ids, weights = cliff.facts(3, 400, longest, distance)
    assert ids.shape == weights.shape == (400, longest + 2) and ids.dtype == torch.int64
    seen = set()
    for row, weight in zip(ids.tolist(), weights.tolist(), strict=True):
        asked = len(row) - 2
        animals = [n for n, word in enumerate(row[:-1]) if word < len(cliff.ANIMALS)]
        assert len(animals) == 1 and row[animals[0]] == row[-1] and row[asked] == cliff.ASK
        assert all(word > cliff.ASK for n, word in enumerate(row[:asked]) if n != animals[0])
        assert weight == [0] * (asked + 1) + [1]
        seen.add(asked - animals[0])
    assert seen == ({distance} if distance else set(range(1, longest + 1)))


def test_nothing_but_the_fact_tells_the_answer():
    """The filler is the same for all answers: counted at each place, and guessed from by the best rule there is for one word."""
    ids, _ = cliff.facts(5, 6000, 6, 3)
    answers = ids[:, -1]
    assert torch.bincount(answers, minlength=16).min() > 300
    fact_at = 6 - 3
    for place in set(range(6)) - {fact_at}:
        fillers = range(cliff.ASK + 1, len(cliff.WORDS))
        right = sum(torch.bincount(answers[ids[:, place] == word]).max().item() for word in fillers)
        assert right / 6000 < 0.10
    assert torch.equal(ids[:, fact_at], answers)


def test_the_same_seed_gives_the_same_rows_and_training_never_sees_the_questions():
    assert torch.equal(cliff.facts(1, 8, 20)[0], cliff.facts(1, 8, 20)[0])
    assert not torch.equal(cliff.facts(1, 8, 20)[0], cliff.facts(2, 8, 20)[0])
    batches = cliff.growing(2, 8, steps=100, batch=4, seed=1)
    assert torch.equal(batches(7)[0], batches(7)[0])
    lengths = [batches(step)[0].shape[1] - 2 for step in range(100)]
    assert lengths[0] == 8 and lengths == sorted(lengths) and lengths[50:] == [cliff.beyond(2, 8)] * 50 and lengths[-1] > 14
    assert 1_000_000 * 100 + 10_000 < cliff.HELD_OUT


def test_a_curve_is_what_asking_row_by_row_gives():
    model = random_model(cliff.config(1, 4, dim=16))
    model.output.weight[16:] = -5  # so that it names animals
    found = cliff.counts(model, [1, 3, 6], n=40, seed=9)
    for d in (1, 3, 6):
        ids, _ = cliff.facts(9 + d, 40, 6, d)
        right = 0
        for row in ids.tolist():
            logits = model(torch.tensor([row[:-1]]))[0, -1].tolist()
            right += logits.index(max(logits)) == row[-1]
        assert found[d] == (right, 40)
    assert cliff.curve(model, [6, 1, 3], n=40, seed=9) == {d: right / of for d, (right, of) in found.items()}
    assert cliff.first_forgotten({1: 1.0, 2: 0.9, 3: 0.4, 4: 0.1}) == 3 and cliff.first_forgotten({1: 1.0}) is None


@pytest.mark.parametrize("layers, window, far", [(1, 6, 5), (2, 4, 6)])
def test_a_small_model_trained_for_seconds_shows_its_cliff(layers, window, far):
    model = cliff.train(layers, window, seed=0, dim=32, batch=32, steps=200 + 100 * (layers - 1), lr=4e-3, progress=False)
    recall = cliff.curve(model, range(1, far + 5), n=128)
    assert min(recall[d] for d in range(1, far + 1)) >= 0.95, recall
    assert max(recall[d] for d in range(far + 1, far + 5)) < 0.2, recall
    assert cliff.first_forgotten(recall) == far + 1 == cliff.exact_reach(model.config) + 1


# --- stories --------------------------------------------------------------------------------------------------------------

DISTANCES = [3, 6, 7, 8, 9, 10, 13, 18, 31, 60]


@pytest.mark.parametrize("distance, alive", list(product(DISTANCES, (1, 2, 4, 8, 16))))
def test_a_question_has_its_fact_at_its_distance_among_others_of_its_kind(distance, alive):
    for n in range(20):
        asked = stories.question(random.Random(n), distance, alive, 40)
        text = stories.words(asked.ids)
        facts = re.findall(r"(\w+'s) (\w+) (?:sleeps|eats|plays|waits) \.", text)
        owners, animals = zip(*facts, strict=True)
        assert len(facts) == alive == len(set(owners)) == len(set(animals))
        assert stories.ID[dict(facts)[text.split()[-1]]] == asked.answer == asked.ids[-1 - distance]
        assert sorted(asked.told) == sorted(stories.ID[animal] for animal in animals)
        assert asked.ids.count(asked.answer) == 1 and asked.ids.count(asked.ids[-1]) == 2
        sayings = "|".join(re.escape(" ".join(said)) for said in stories.SAYINGS)
        rest = re.sub(r"\w+'s \w+ (?:sleeps|eats|plays|waits) \.|" + sayings, "", text)
        assert rest.split() == text.split()[-1:] and len(asked.ids) >= 40
        far = max(len(asked.ids) - 1 - asked.ids.index(animal) for animal in asked.told)
        assert far <= distance + 4 * alive + max(map(len, stories.FILLER))


def test_which_fact_is_asked_for_shows_in_nothing_but_its_owner():
    """With two alive: the nearer one is the right one about as often as the places say, and never is there a third."""
    nearer = sum(
        asked.ids.index(asked.answer) > asked.ids.index(next(a for a in asked.told if a != asked.answer))
        for asked in (stories.question(random.Random(n), 20, 2, 40) for n in range(400))
    )
    assert 60 < nearer < 340


def test_a_row_to_learn_from_weighs_what_was_told_before_and_only_that():
    ids, weights = stories.story(random.Random(4), 200, 3, 5.0)
    known = {}
    for n, (word, weight) in enumerate(zip(ids, weights, strict=True)):
        owner = ids[n - 1] if n else -1
        if 0 <= owner < len(stories.OWNERS):
            assert weight == (1.0 if owner in known else 0.0)
            assert known.setdefault(owner, word) == word
        else:
            assert weight == 0
    assert len(known) == 3 and sum(weights) > 5 and len(set(known.values())) == 3


def test_the_answers_are_what_asking_one_by_one_gives():
    model = random_model(stories.config(2, 8, dim=16))
    model.output.weight[: len(stories.OWNERS)] = model.output.weight[32:] = 0  # it names animals, mostly
    asked = [stories.question(random.Random(n), d, 4, 30) for n in range(15) for d in (3, 8, 20)]
    right = told = 0
    for question in asked:
        logits = model(torch.tensor([question.ids]))[0, -1].tolist()
        said = logits.index(max(logits))
        right, told = right + (said == question.answer), told + (said in question.told)
    assert stories.answered(model, asked) == stories.Answers(right, told, 45) and told > right
    grid = stories.grid(model, [3, 9], alive=(1, 4), n=5)
    assert set(grid) == {(1, 3), (1, 9), (4, 3), (4, 9)} and all(a.of == 5 and a.right <= a.told for a in grid.values())


def test_the_head_start_is_one_head_that_looks_one_token_back():
    from minimistral import masks, rope
    from minimistral.attention import weights

    model = mm.Mistral(stories.config(2, 16))
    stories.head_start(model)
    ids = torch.tensor([stories.story(random.Random(1), 60, 4, 3.0)[0]])
    turn = rope.angles(masks.positions(60), 16, 100.0)
    a = model.layers[0].attention
    with torch.no_grad():
        q, k, _ = a.project(model.layers[0].attention_norm(model.tok_embeddings(ids)), turn)
        looked = weights(q, k, 16)[0]
    back = [looked[h].diagonal(-1).mean().item() for h in range(4)]
    assert back[0] > 0.8 and max(back[1:]) < 0.4


# --- records --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", ["cliff", "hybrid", "stories"])
def test_what_is_recorded_is_whole(experiment):
    record = reach.recorded(experiment)
    seen = set()
    for run in record["runs"]:
        key = run["layers"], run["window"], run["seed"]
        assert key not in seen and set(run) == set(runs.KEYS)
        seen.add(key)
        asked = {tuple(row[:2] if experiment == "stories" else row[:-2]): row for row in run["counts"]}
        at = runs.distances(experiment, run["layers"], run["window"])
        assert set(asked) == (set(product(stories.ALIVE, at)) if experiment == "stories" else {(d,) for d in at})
        for row in run["counts"]:
            *_, of = row
            assert 0 <= row[-2] <= of and of >= 100
        assert {"processor", "cores", "threads", "torch", "python", "date"} <= set(run["machine"])
        pattern = ",".join(str(w or "none") for w in run["window"]) if experiment == "hybrid" else str(run["layers"])
        assert run["command"].startswith(f"minimistral reach {experiment} ") and pattern in run["command"]
        assert run["steps"] == runs.steps_of(experiment, run["layers"], run["window"]) and run["loss"][0] > run["loss"][-1]


def test_shipped_models_are_small_and_fall_off_where_their_name_says():
    assert "cliff-4-layers-window-16" in reach.names()
    for name in reach.names():
        model = reach.shipped(name)
        assert sum(path.stat().st_size for path in (runs.RECORDED.parent / "models" / name).iterdir()) < 1_000_000
        assert model.output.weight.dtype == torch.float32
        if name.startswith("hybrid"):
            windows = tuple(None if word == "none" else int(word) for word in name.split("windows-")[1].split("-"))
            assert model.config == cliff.config(len(windows), windows) and None in windows
            assert min(cliff.curve(model, [1, 30, 59, 61, 80, 110], n=128).values()) >= 0.95
            continue
        layers, window = map(int, re.fullmatch(r"cliff-(\d+)-layers?-window-(\d+)", name).groups())
        assert model.config == cliff.config(layers, window)
        far = cliff.exact_reach(model.config)
        recall = cliff.curve(model, [1, far // 2, far - 1, far + 1, far + 9], n=128)
        assert min(recall[d] for d in (1, far // 2, far - 1)) >= 0.95 and max(recall[d] for d in (far + 1, far + 9)) < 0.2, recall
    with pytest.raises(ValueError, match="expected one of cliff-2-layers-window-16"):
        reach.shipped("cliff-8-layers-window-64")


def record_of(experiment, *made):
    return {"experiment": experiment, "runs": [dict(layers=layers, window=window, seed=seed, steps=90, counts=counts)
                                               for layers, window, seed, counts in made]}


def test_the_cliffs_verdict_follows_the_counts():
    full = [[d, 100 if d <= 6 else 6, 100] for d in range(1, 13)]
    assert "Each model recalls" in show.verdict(record_of("cliff", (2, 4, 0, full), (2, 4, 1, full)))
    short = [[d, 100 if d <= 3 else 6, 100] for d in range(1, 13)]
    said = show.verdict(record_of("cliff", (2, 4, 0, full), (2, 4, 1, short)))
    assert "Not each model" in said and " 3, 6 " in said
    for far, end in ((8, 13), (7, 60)):  # the second is found out by the one distance alone: its recall beyond is near chance
        beyond = [[d, 100 if d <= far else 6, 100] for d in range(1, end)]
        assert "Not each model" in show.verdict(record_of("cliff", (2, 4, 0, beyond)))
    assert "not recorded yet" in show.verdict(record_of("cliff"))


def test_a_hybrids_verdict_names_pattern_recall_and_what_is_kept():
    sure, not_sure = ([[d, hit, 100] for d in range(1, 13)] for hit in (100, 90))
    said = show.verdict(record_of("hybrid", (4, (16, 16, None, 16), 0, sure), (4, (16, 16, None, 16), 1, not_sure))).splitlines()
    assert said[1].split("  ") and said[1].startswith("16, 16, none, 16") and "0 of 12, all 12" in said[1]
    assert "0.900" in said[1] and "25.04%" in said[1]


def test_a_layer_without_a_window_has_no_end_and_the_others_add_up():
    assert cliff.exact_reach(cliff.config(4, (16, None, 16, 16))) is None
    assert cliff.exact_reach(cliff.config(3, (16, 4, 1))) == 15 + 3
    assert cliff.beyond(4, (16, None, 16, 16)) == cliff.beyond(4, 16) and cliff.narrow((None, 4, 9)) == 9


def test_pooling_adds_seeds_and_keeps_distances():
    record = record_of("stories", (2, 4, 0, [[1, 3, 5, 6, 10], [2, 3, 1, 9, 10]]), (2, 4, 1, [[1, 3, 9, 9, 10]]),
                       (1, 4, 0, [[1, 3, 0, 0, 10]]))
    assert show.pooled(record, (2, 4), 1) == {3: (14, 20)} and show.pooled(record, (2, 4), 2) == {3: (1, 10)}
    assert show.pooled(record, (2, 4), 1, seed=1) == {3: (9, 10)} and show.shapes(record) == [(1, 4), (2, 4)]
    assert show.sure_to({1: (95, 100), 2: (96, 100), 3: (94, 100), 4: (100, 100)}) == 2 and show.sure_to({1: (0, 9)}) == 0
    # half-way between a guess among 4 (0.25) and 1 is 0.625; with one alive, between 1 in 16 and 1, 0.531
    assert show.half_way({3: (63, 100), 6: (62, 100), 7: (63, 100), 8: (62, 100)}, 4) == 7
    assert show.half_way({3: (62, 100)}, 4) == 0
    assert show.half_way({3: (54, 100), 6: (53, 100)}, 1) == 3


def stories_of(layers, window, recall, of=100):
    """A made-up record: recall(alive, distance) -> share of right answers; half of the wrong ones name another animal told."""
    points = [(k, d, recall(k, d)) for k in stories.ALIVE for d in range(3, 37, 3)]
    return record_of("stories", (layers, window, 0, [[k, d, round(of * p), round(of * (1 + p) / 2), of] for k, d, p in points]))


def test_the_stories_verdict_follows_the_counts():
    said = show.verdict(stories_of(2, 16, lambda k, d: 1.0 if d <= 27 else 0.06))
    assert "one fact alone is known up to 27 tokens back, of the L(W-1) = 30 possible" in said and "after 90 steps" in said
    assert "is known up to 27: it crosses the window, and that is more than 1.5 W = 24" in said
    assert "Beyond L(W-1) recall is 0.06 with 1, 0.06 with 2, 0.06 with 4, 0.06 with 8 alive" in said
    record = stories_of(2, 16, lambda k, d: 1.0 if d <= 24 // k + 3 else 0.06)
    said = show.verdict(record)
    assert said.endswith("\n\n" + "\n".join(show.conclusions(record)))
    assert "alone is known up to 27 tokens" in said and "known up to 6 to 15: it stays within it, and that is less than" in said
    said = show.verdict(stories_of(2, 16, lambda k, d: 1.0 if d <= (27 if k < 8 else 12) else 0.06))
    assert "known up to 12 to 27:" in said and "it crosses it in part, and that is about 1.5 W" in said
    said = show.verdict(stories_of(1, 16, lambda k, d: 1 / k if d <= 15 else 0.06))
    assert "does not learn whose is which" in said and "the right one in 29%" in said and "crosses" not in said
    assert "told apart up to 36 tokens back; the farthest asked for is 36" in show.verdict(stories_of(2, None, lambda k, d: 0.99))


def test_the_picture_carries_the_verdict():
    full = [[d, 100 if d <= 6 else 6, 100] for d in range(1, 13)]
    for record in (record_of("cliff", (2, 4, 0, full), (1, 4, 0, full), (2, 6, 0, full)),
                   record_of("hybrid", (4, (16, 16, None, 16), 0, full), (4, (None, 16, 16, 16), 1, full)),
                   record_of("stories", (2, 4, 0, [[k, d, 50, 60, 100] for k in stories.ALIVE for d in (3, 6, 9)]))):
        shown = reach.picture(record)
        assert shown.text.startswith(show.verdict(record)) and shown.png.startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no runs"):
        reach.picture(record_of("cliff"))


# --- the command ----------------------------------------------------------------------------------------------------------


def test_the_command_makes_a_record_goes_on_where_it_stands_and_keeps_the_models(tmp_path, capsys):
    out = tmp_path / "cliff.json"
    command = ["reach", "cliff", "--layers", "1", "--window", "5", "--steps", "6", "--questions", "8", "--out", str(out)]
    assert main([*command, "--seeds", "1", "--save", str(tmp_path / "models")]) == 0
    first = json.loads(out.read_text())
    assert [(r["layers"], r["window"], r["seed"], r["steps"]) for r in first["runs"]] == [(1, 5, 0, 6)]
    assert first["runs"][0]["command"] == "minimistral reach cliff --layers 1 --window 5 --seeds 1 --steps 6 --questions 8"
    model, _ = mm.load(tmp_path / "models" / "cliff-1-layer-window-5-seed-0", device="cpu", dtype=torch.float32)
    assert model.config == cliff.config(1, 5)
    assert main([*command, "--seeds", "2"]) == 0
    both = json.loads(out.read_text())
    assert both["runs"][0] == first["runs"][0] and [r["seed"] for r in both["runs"]] == [0, 1]
    assert "seed 0" in (said := capsys.readouterr().out) and said.count("seed 0\n") == 1 and show.verdict(both) in said
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_a_hybrids_command_names_its_windows_and_makes_it_again(tmp_path):
    out = tmp_path / "hybrid.json"
    command = ["reach", "hybrid", "--window", "4,none", "--seeds", "1", "--steps", "3", "--questions", "4"]
    assert main([*command, "--out", str(out)]) == 0
    run = reach.read(out)["runs"][0]
    assert run["window"] == (4, None) and run["layers"] == 2 and run["command"] == " ".join(["minimistral", *command])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["cliff", "--window", "none"], "window is None"),
        (["cliff", "--window", "1"], "window is 1"),
        (["stories", "--window", "3"], "window is 3"),
        (["cliff", "--window", "many"], "--window has 'many'"),
        (["hybrid", "--window", "16,many"], "--window has 'many'"),
        (["hybrid"], "window is 16; expected one for each layer in a hybrid, and one for all elsewhere"),
        (["cliff", "--window", "16,none"], "window is (16, None); expected one for each layer in a hybrid"),
        (["hybrid", "--window", "none,none"], "window is (None, None); expected at least 2"),
        (["cliff", "--layers", "0"], "n_layers is 0"),
        (["cliff", "--seeds", "0"], "--seeds is 0"),
        (["cliff", "--steps", "0"], "--steps is 0"),
        (["stories", "--first-seed", "-1"], "--first-seed is -1"),
        (["cliff", "--out", "no/such/folder/x.json"], "no folder no/such/folder"),
    ],
)
def test_what_cannot_be_run_is_refused_before_it_starts(arguments, words, capsys):
    assert main(["reach", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_holds_something_else_is_left_alone(tmp_path, capsys):
    other = tmp_path / "notes.json"
    lacking = '{"experiment": "cliff", "runs": [{"layers": 1}]}'
    for content in ("my notes", "[]", '{"experiment": "stories", "runs": []}', lacking):
        other.write_text(content)
        assert main(["reach", "cliff", "--out", str(other)]) == 2
        assert "notes.json" in capsys.readouterr().err and other.read_text() == content
    with pytest.raises(ValueError, match="expected one of cliff, hybrid, stories"):
        reach.recorded("cliffs")
    with pytest.raises(ValueError, match="does not exist"):
        reach.read(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: cliff.facts(0, 4, 5, 6), "distance is 6"),
        (lambda: cliff.facts(0, 4, 0), "longest 0"),
        (lambda: cliff.train(1, None), "window is None"),
        (lambda: cliff.counts(None, []), "distances is empty"),
        (lambda: stories.question(random.Random(0), 4, 1, 20), "distance is 4"),
        (lambda: stories.question(random.Random(0), 2, 1, 20), "distance is 2"),
        (lambda: stories.question(random.Random(0), 9, 17, 20), "alive is 17"),
        (lambda: stories.train(1, 3), "window is 3"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
