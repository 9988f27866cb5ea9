"""The museum: every planted bug turns the tests red that are named for it, and leaves no trace; the exam is sound."""

import inspect
import itertools
import random
import re

import nbformat
import plant
import pytest
import torch
from helpers import compositions, fed_in_chunks, largest_difference, random_ids, small_model

import minimistral as mm
from minimistral import course, lattice, museum, probe
from minimistral.exercises import museum as ex
from minimistral.museum import exam
from minimistral.museum.plants import PLANTS
from minimistral.museum.proof import PROOF

FORMS = [(number, form) for number, forms in PLANTS.items() for form in forms]
each_bug = pytest.mark.parametrize("bug", museum.BUGS.values(), ids=lambda bug: f"{bug.number}")
each_form = pytest.mark.parametrize("number, form", FORMS)


# --- the proof -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes():
    with plant.pool(1) as workers:
        yield workers


@each_form
def test_the_planted_bug_turns_the_named_tests_red(number, form, processes, capsys):
    catch, passes = PROOF[number, form]
    how, said = processes.submit(plant.outcomes, (number, form), [*catch, passes]).result(timeout=120)
    assert plant.complaints((number, form), how, said) == []
    with capsys.disabled():
        print(f"\n{number} {museum.BUGS[number].title} {form and f'({form})'}: {', '.join(catch)}")


def test_without_a_bug_the_same_tests_are_green(processes):
    named = sorted({test for catch, passes in PROOF.values() for test in (*catch, passes)})
    how, said = processes.submit(plant.outcomes, None, named).result(timeout=300)
    assert set(how) == set(named), plant.errors(said)
    assert not any(how.values()), plant.errors(said)


def test_a_plant_without_effect_and_a_weak_test_are_told_apart_from_a_proof():
    catch, passes = PROOF[1, ""]
    green, red = dict.fromkeys((*catch, passes), ""), dict.fromkeys(catch, "assert 3 < 1e-4") | {passes: ""}
    assert plant.complaints((1, ""), red) == []
    assert "no named test notices it" in plant.complaints((1, ""), green)[0]
    assert "stays green" in plant.complaints((1, ""), red | {catch[0]: ""})[0]
    assert "not by its own assertion" in plant.complaints((1, ""), red | {catch[0]: "TypeError: 'bool'"})[0]
    assert "notices it after all" in plant.complaints((1, ""), red | {passes: "assert 0"})[0]
    del red[catch[1]]
    lost = plant.complaints((1, ""), red, "collected 0\nERROR: not found: test_cache.py::test_x\n")
    assert len(lost) == 1 and catch[1] in lost[0] and lost[0].endswith("ERROR: not found: test_cache.py::test_x")


def test_all_eighteen_are_there_and_each_form_is_proved():
    assert list(museum.BUGS) == sorted(PLANTS) == list(range(1, 19))
    assert set(PROOF) == set(FORMS)
    assert all(catch for catch, _ in PROOF.values())
    reported = {1008, 1013, 2182, 2145, 2153, 37574, 39408, 29220, 28980, 29777, 452, 825, 390, 1953, 286, 31788, 922, 233}
    found = {int(n) for bug in museum.BUGS.values() for name in bug.where for n in re.findall(r"#(\d+)", name)}
    assert reported <= found


# --- planting ------------------------------------------------------------------------------------------------------------


def fingerprint():
    """The library's own functions, where plants are put."""
    from minimistral import attention, cache, checkpoint, masks, model, rope

    owners = (attention, checkpoint, masks, model, rope, cache.RollingBuffer, model.Mistral, model.Attention, mm.MistralConfig)
    return [(owner.__name__, name, inspect.getattr_static(owner, name)) for owner in owners for name in vars(owner)]


@each_form
def test_a_plant_is_gone_when_its_block_ends(number, form):
    before, model = fingerprint(), small_model(3)
    tokens = random_ids(1, 9)
    right = fed_in_chunks(model, tokens, [4, 1, 4], mm.RollingBuffer(model.config))
    with museum.planted(number, form):
        assert fingerprint() != before
    assert fingerprint() == before
    with pytest.raises(KeyboardInterrupt), museum.planted(number, form):
        raise KeyboardInterrupt
    assert fingerprint() == before
    assert torch.equal(right, fed_in_chunks(model, tokens, [4, 1, 4], mm.RollingBuffer(model.config)))


def test_a_plant_reaches_a_cache_that_was_there_before_and_the_first_form_is_the_default():
    model, tokens = small_model(3), random_ids(1, 9)
    cache = mm.RollingBuffer(model.config)
    with museum.planted(3):
        planted = fed_in_chunks(model, tokens, [4, 5], cache)
    assert torch.equal(planted, fed_in_chunks(model, tokens, [4, 5], museum.WritesFirst(model.config)))
    assert largest_difference(planted, model(tokens)) > 1e-2


class RollsEarly(mm.RollingBuffer):
    """Bug 5 as it was shipped, token by token: a list that moves up from position W - 1 on, and shows all its places."""

    def begin(self, T, lengths):
        step = super().begin(T, lengths)
        self.at = self.position.item()
        step.slots = torch.tensor([min(self.at, self.size - 1)])
        step.mask = torch.ones_like(step.mask)
        return step

    def exchange(self, layer, k, v, step):
        if self.at >= self.size - 1:
            for buffer in (self.keys, self.values):
                buffer[layer] = torch.nn.functional.pad(buffer[layer, :, :, 1:], (0, 0, 0, 1))
        return super().exchange(layer, k, v, step)


@pytest.mark.parametrize("W", [1, 2, 3, 5, 8])
def test_5_is_the_list_that_moves_up_too_early(W):
    model, tokens = small_model(W), random_ids(1, 4 * W)
    right = model(tokens)
    with museum.planted(5):
        planted = fed_in_chunks(model, tokens, [1] * 4 * W, mm.RollingBuffer(model.config))
    assert largest_difference(planted, fed_in_chunks(model, tokens, [1] * 4 * W, RollsEarly(model.config))) < 1e-5
    apart = ((planted - right).abs().amax(-1)[0] > 1e-4).nonzero().flatten().tolist()
    reach = (W - 1) * model.config.n_layers  # W - 1 queries with a hole, and what later layers read of them
    assert not apart if W == 1 else set(range(W - 1, 2 * W - 2)) <= set(apart) <= set(range(W - 1, W - 1 + reach))


def test_5_does_nothing_behind_a_prompt_that_fills_the_ring_at_once_and_its_rows_are_apart():
    model, tokens = small_model(4), random_ids(2, 14)
    with museum.planted(5):
        filled_at_once = fed_in_chunks(model, tokens, [5, *[1] * 9], mm.RollingBuffer(model.config, 2))
        assert largest_difference(filled_at_once, model(tokens)) < 1e-4
        for row in (0, 1):  # the other one sits the first three tokens out
            cache, lengths = mm.RollingBuffer(model.config, 2), torch.tensor([1, 1])
            late = lengths.clone()
            late[1 - row] = 0
            got = [model(tokens[:, [t]], cache=cache, lengths=late if t < 3 else lengths)[row] for t in range(14)]
            alone = fed_in_chunks(model, tokens[[row]], [1] * 14, mm.RollingBuffer(model.config))[0]
            assert largest_difference(torch.cat(got), alone) < 1e-4


def test_6_changes_exactly_one_logit_row_of_w_plus_1():
    model, tokens = small_model(5), random_ids(1, 6)
    right = model(tokens)
    with museum.planted(6):
        changed = (model(tokens) - right).abs().amax(-1)[0] > 1e-4
    assert changed.tolist() == [False] * 5 + [True]


def test_9_gives_the_right_numbers_and_keeps_everything():
    model, tokens = small_model(3), random_ids(1, 100)
    ring = mm.RollingBuffer(model.config)
    right = fed_in_chunks(model, tokens, [50, 50], ring)
    with museum.planted(9):
        cache = mm.RollingBuffer(model.config)
        assert largest_difference(fed_in_chunks(model, tokens, [50, 50], cache), right) < 1e-4
    assert cache.n_bytes() > 30 * ring.n_bytes()


def test_2_is_nan_beyond_the_window_and_silent_within():
    model, tokens = small_model(4), random_ids(1, 9)
    right = model(tokens)
    with museum.planted(2):
        assert model(tokens, cache=mm.RollingBuffer(model.config))[0, :5].isnan().any(-1).all()
        silent = fed_in_chunks(model, tokens, [4, 3, 2], mm.RollingBuffer(model.config))
    assert not silent.isnan().any() and largest_difference(silent, right) > 1e-2


@pytest.mark.parametrize("W", [1, 2, 3])
def test_11_is_wrong_at_a_window_of_one_and_nowhere_else(W):
    model, tokens = small_model(W), random_ids(1, 9)
    with museum.planted(11):
        got = fed_in_chunks(model, tokens, [1] * 9, mm.RollingBuffer(model.config))
    assert (largest_difference(got, model(tokens)) < 1e-4) == (W > 1)


# --- labels --------------------------------------------------------------------------------------------------------------


@each_bug
def test_a_label_says_what_whose_and_where(bug):
    label = museum.card(bug.number)
    page = label._repr_mimebundle_()["text/html"]
    for words in (f"{bug.number}", bug.title, bug.wrong, bug.noticed, *bug.where):
        assert words in repr(label)
    assert bug.title in page and "<details>" in page and page.index("<details>") < page.index("What one notices")
    assert page.count("href='https://github.com/") == sum(url is not None for _, url in bug.projects)
    assert all(link for _, link in bug.projects) or bug.number == 18
    assert bug.chapter in {chapter.number for chapter in course.CHAPTERS}


@each_form
def test_a_mistake_can_be_read_in_a_minute(number, form):
    lines = museum.source(number, form).splitlines()
    assert lines[0].startswith("def ") and 3 <= len(lines) <= 25
    assert not any(line.startswith("@") for line in lines)


def test_the_wall_shows_every_bug_and_every_form():
    wall = museum.wall()
    for bug in museum.BUGS.values():
        assert bug.title in repr(wall) and bug.noticed in wall._repr_mimebundle_()["text/html"]
    page = wall._repr_mimebundle_()["text/html"]
    for catch, _ in PROOF.values():
        for test in catch:
            assert test.split("::test_")[1].split("[")[0].replace("_", " ") in page
    assert "[" not in page and page.count("<details>") == page.count("</details>") == len(museum.BUGS)
    assert repr(wall).splitlines()[10].startswith("11  Minus zero") and repr(wall).splitlines()[10].endswith("1 named test.")


@each_form
def test_a_mistake_can_be_shown_without_the_words_that_name_it(number, form):
    whole, bare = museum.source(number, form), museum.source(number, form, told=False)
    name, said = PLANTS[number][form].__name__, inspect.getdoc(PLANTS[number][form])
    assert name in whole and said.split()[0] in whole
    assert name not in bare and said[:20] not in bare and bare.startswith("def plant():\n")
    assert bare.splitlines()[1:] == whole.splitlines()[-len(bare.splitlines()) + 1 :]


def test_exhibits_that_do_not_exist_are_refused_by_name():
    for call in (museum.card, museum.source, lambda n: museum.planted(n).__enter__()):
        with pytest.raises(ValueError, match="no exhibit 19; they are numbered 1 to 18"):
            call(19)
    with pytest.raises(ValueError, match="exhibit 12 has no form 'c'; there are 'itself', 'closure'"):
        museum.planted(12, "c").__enter__()


# --- the exam ------------------------------------------------------------------------------------------------------------

RIGHT = ("B", "D")


def ways(most, rows):
    """Every way to feed at most so many real tokens to so many rows, three chunks at most for two rows; fewest tokens first."""
    if rows == 1:
        return [[[n] for n in sizes] for total in range(1, most + 1) for sizes in compositions(total)]
    lengths = [pair for pair in itertools.product(range(4), repeat=2) if max(pair)]
    found = [seq for n in (1, 2, 3) for seq in itertools.product(lengths, repeat=n) if sum(map(sum, seq)) <= most]
    return sorted(([list(chunk) for chunk in seq] for seq in found), key=lambda seq: sum(map(sum, seq)))


@pytest.mark.parametrize("letter", [*RIGHT, mm.RollingBuffer])
def test_the_healthy_ones_are_right_whatever_is_fed(letter):
    pick = random.Random(1)
    for W, rows in itertools.product((1, 2, 3), (1, 2)):
        few = ways(6 if rows == 1 else 3, rows)
        for chunks in few:
            assert exam.trial(letter, W, chunks, again=pick.random() < 0.3), (letter, W, chunks)
    for W, rows, again in itertools.product((1, 3, 4, 7), (1, 3), (False, True)):
        for _ in range(4):
            chunks = [[pick.randint(0, 2 * W + 2) for _ in range(rows)] for _ in range(7)]
            chunks = [[max(1, chunk[0]), *chunk[1:]] for chunk in chunks]
            assert exam.trial(letter, W, chunks, again=again), (letter, W, chunks)


@pytest.mark.parametrize("letter", ex.FEWEST)
def test_each_broken_one_parts_with_so_many_tokens_and_with_no_fewer(letter):
    settings = [(W, rows, again) for W in (2, 1, 3) for rows, again in ((1, False), (1, True), (2, False))]
    for W, rows, again in settings:
        for chunks in ways(ex.FEWEST[letter] - 1, rows):
            assert exam.trial(letter, W, chunks, again=again), (W, chunks)
    found = (
        not exam.trial(letter, W, chunks, again=again)
        for W, rows, again in settings
        for chunks in ways(ex.FEWEST[letter], rows)[::-1]
        if sum(map(sum, chunks)) == ex.FEWEST[letter]
    )
    assert any(found)


def test_each_broken_one_is_right_wherever_one_is_likely_to_look():
    for letter in "ACEF":
        assert exam.trial(letter, 8, [5, 1, 1]), "shorter than the window"
        assert exam.trial(letter, 4, [9]), "all at once"
        assert exam.trial(letter, 4, [9, 1, 1, 1, 1]), "a long prompt, then decode"
    for letter, blind in dict(A=dict(layers=1), C=dict(chunks=[7, 5, 1, 4]), E=dict(chunks=[6, 3, 1, 1]), F=dict()).items():
        assert exam.trial(letter, 3, **(dict(chunks=[4, 3, 1, 1, 5]) | blind)), letter


def test_the_lattice_finds_three_of_the_four_and_accuses_nobody():
    """It makes a new cache for every cell: what only a second text shows, it cannot see."""
    cells = lattice.cells(windows=[3], kinds=["ring"], heads=[(4, 1)], every=4, some=4)
    red = {letter for letter, kind in exam.CACHES.items() if lattice.run(cells, lattice.through(kind), progress=False).red}
    assert red == {"A", "C", "E"}
    assert {letter for letter, word in ex.verdicts.answer().items() if word == "broken"} == red | {"F"} == set(ex.FEWEST)


@pytest.mark.parametrize("letter", exam.CACHES)
def test_the_probe_looks_into_each_of_them(letter):
    model = exam.random_model(window=4, layers=2)
    for sizes in ([7, 1, 3, 2], [1] * 13):
        found = probe.compare(model, random_ids(1, 13) % 32, probe.at_once, probe.through(exam.CACHES[letter], sizes))
        assert bool(found) == ((letter, len(sizes)) in {("A", 4), ("C", 13)}), repr(found)


def test_the_mended_ones_are_right():
    kinds = exam.mended(ex.append.answer, ex.keepers.answer)
    assert {letter for letter in kinds if kinds[letter] is not exam.CACHES[letter]} == {"C", "E"}
    for letter in "CE":
        for chunks in ([1] * 7, [3, 1, 1, 5], [[3, 1], [0, 1], [5, 2]], [[1, 4], [1, 0], [1, 1]]):
            for W in (1, 2, 3):
                assert exam.trial(kinds[letter], W, chunks)


def test_a_trial_names_the_first_place_and_refuses_nonsense():
    assert exam.trial("C", 2, [1, 1]).position == 1
    broken = exam.trial("E", 2, [[1, 3], [1, 0]])
    assert (broken.row, broken.position, bool(broken)) == (0, 1, False)
    assert repr(broken).startswith("parts: 5 tokens, first at position 1 of row 0, by up to ")
    assert repr(exam.trial("F", 1, [1])) == "right: 1 token, all logits as without a cache"
    assert "right: 5 tokens" in repr(exam.trial(mm.RollingBuffer, 3, [4, 1]))
    assert not exam.trial(museum.WritesFirst, 3, [4, 2])
    for chunks in ([], [0], [[1, 2], [1]], [[0, 0]], [-1], ["3"], [True], 5, None, [10**9]):
        with pytest.raises(ValueError, match="chunks is .*: expected"):
            exam.trial("A", 3, chunks)
    with pytest.raises(ValueError, match="no cache of the exam is called 'G'; there are A, B, C, D, E, F"):
        exam.trial("G", 3, [1])
    with pytest.raises(ValueError, match="for models with a window"):
        exam.A(small_model(None).config)


@pytest.fixture
def sitting():
    """The exam as it stands before and after somebody sits it."""
    def rise():
        for exercise in (ex.verdicts, ex.located, ex.append, ex.keepers):
            exercise.check(None)
            exercise.solved, exercise.best = False, None
        ex.verdicts.checks = 0

    rise()
    yield ex
    rise()


def test_the_curtain_opens_with_the_right_verdicts_and_the_score_follows(sitting, capsys):
    def said(function):
        capsys.readouterr()
        function()
        return capsys.readouterr().out

    assert said(ex.score) == "judged:   not yet\nlocated:  not yet\nrepaired: 0 of 2\n"
    ex.verdicts.check(ex.verdicts.answer() | {"E": "healthy"})
    for curtain in (ex.patients, ex.labels):
        assert "your verdicts are right" in said(curtain)
        assert not re.search(r"\bdef |37574", said(curtain))
        assert re.search(r"\bdef |37574", said(lambda curtain=curtain: curtain(now=True)))
    assert "judged:   5 of 6, in 1 check\n" in said(ex.score)
    ex.verdicts.check({"A": "broken"})  # not six words: no attempt
    ex.verdicts.check(ex.verdicts.answer())
    assert "def append(" in said(ex.patients) and "def keepers(" not in said(ex.patients)
    assert [line[:2] for line in said(ex.labels).splitlines()] == [f"{letter} " for letter in exam.CACHES]
    assert all(("healthy" in line) == (line[0] in RIGHT) for line in said(ex.labels).splitlines())
    ex.located.check({"C": dict(window=2, chunks=[1, 1]), "F": dict(window=2, chunks=[2], again=True)})
    assert "located:  1 with as few tokens as can be\n" in said(ex.score)
    ex.located.check(ex.located.answer())
    ex.append.check(ex.append.rights[0])
    assert said(ex.score).endswith("4 with as few tokens as can be, and none is missing\nrepaired: 1 of 2\n")
    assert "right in 60 of 60" in said(lambda: ex.retry(ex.append.answer, ex.keepers.answer))
    assert "right in 60 of 60" not in said(lambda: ex.retry(exam.C.append, ex.keepers.answer))
    before = said(ex.score)
    for wrong in (None, dict.fromkeys(exam.CACHES, "healthy")):  # nothing is taken away
        ex.verdicts.check(wrong)
        ex.located.check(wrong and {"C": dict(window=3, chunks=[1, 1, 1])})
        ex.append.check(wrong and exam.C.append)
    assert said(ex.score) == before and before.startswith("judged:   6 of 6, in 2 checks\n")
    assert "def append(" in said(ex.patients) and "37574" in said(ex.labels)


def test_the_best_attempt_counts(sitting, capsys):
    healthy = dict.fromkeys(exam.CACHES, "healthy")
    for wrong in (healthy | {"A": "broken"}, healthy, healthy | {"B": "broken"}):
        ex.verdicts.check(wrong)
    ex.located.check({"C": dict(window=2, chunks=[1, 1])})
    ex.located.check({"C": dict(window=3, chunks=[1, 1, 1])})
    capsys.readouterr()
    ex.score()
    said = capsys.readouterr().out.splitlines()
    assert said == ["judged:   3 of 6, in 3 checks", "located:  1 with as few tokens as can be", "repaired: 0 of 2"]


def test_the_exam_does_not_give_itself_away():
    """Neither the names nor the docstrings, and no output of the committed notebook."""
    for letter, kind in exam.CACHES.items():
        assert kind.__name__ == letter and len(kind.__doc__) > 60
    said = " ".join(inspect.getdoc(kind) for kind in exam.CACHES.values()).lower()
    assert not re.search(r"\b(bug|wrong|broken|right|healthy|mistake|fail|forget|only)", said)
    cells = nbformat.read(course.NOTEBOOKS / "13_the_museum.ipynb", 4).cells
    shown = " ".join(str(output.get("text") or output.get("data")) for cell in cells for output in cell.get("outputs", []))
    assert "Judge first" in shown and "behind a curtain" in shown
    assert not re.search(r"\b[A-F]['\": ]+(is )?(healthy|broken)|def (append|keepers)", shown)
