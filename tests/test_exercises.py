"""Every exercise's catalogue: wrong answers are rejected and named, right ones pass, and the frame never raises."""

import importlib
import pkgutil
import re
import threading
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

import minimistral.exercises
from minimistral.exercises import frame
from minimistral.exercises.frame import Exercise

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
MODULES = [m.name for m in pkgutil.iter_modules(minimistral.exercises.__path__) if m.name != "frame"]
EXERCISES = [
    (module, exercise)
    for module in MODULES
    for exercise in vars(importlib.import_module(f"minimistral.exercises.{module}")).values()
    if isinstance(exercise, Exercise)
]
ids = [f"{module}.{exercise.name}" for module, exercise in EXERCISES]
each = pytest.mark.parametrize("module,exercise", EXERCISES, ids=ids)


@pytest.fixture(autouse=True)
def what_a_notebook_switches_off():
    yield
    torch.set_grad_enabled(True)


def verdict(capsys, exercise, yours):
    exercise.check(yours)
    return capsys.readouterr().out.strip()


def explained(capsys, exercise):
    exercise.why()
    return capsys.readouterr().out.strip()


@each
def test_right_answers_pass(module, exercise, capsys):
    assert len(exercise.rights) >= (2 if exercise.cases else 0)
    for right in exercise.rights:
        yours = right if exercise.cases else right()
        assert verdict(capsys, exercise, yours).startswith("✓"), frame.source(right, exercise.name)


@each
def test_every_known_mistake_is_rejected_and_named(module, exercise, capsys):
    table = []
    for sentence, wrong in exercise.mistakes:
        said = verdict(capsys, exercise, wrong if exercise.cases else wrong())
        named = explained(capsys, exercise)
        assert said.startswith("✗") and "\n" not in said, (sentence, said)
        assert sentence in named, (sentence, named)
        table.append(f"  killed: {sentence}\n          {said}")
    with capsys.disabled():
        print(f"\n{module}.{exercise.name}: {len(table)} wrong answers, {len(table)} killed\n" + "\n".join(table))
    assert len(table) >= 3


@each
def test_lazy_answers_are_never_accepted(module, exercise, capsys):
    if exercise.cases is None:
        for lazy in (0, 0.0, "", [], 1, float("nan"), torch.zeros(1)):
            if frame.difference(exercise.answer(), lazy, exercise.tolerance):
                assert verdict(capsys, exercise, lazy).startswith("✗")
        assert verdict(capsys, exercise, None).startswith("○")
        return

    def zeros_like(*case):
        value = exercise.answer(*case)
        return torch.zeros_like(value) if isinstance(value, torch.Tensor) else type(value)()

    def empty(*case): ...

    def nan(*case):
        return float("nan")

    assert verdict(capsys, exercise, empty).startswith("○")
    width = len(exercise.cases()[0])
    for lazy in (zeros_like, nan, *(lambda *case, n=n: case[n] for n in range(width))):
        assert verdict(capsys, exercise, lazy).startswith("✗")


@each
def test_the_answer_itself_is_not_yours(module, exercise, capsys):
    if exercise.cases:
        assert "right, but not yours" in verdict(capsys, exercise, lambda *case: exercise.answer(*case))


@each
def test_hints_and_solution(module, exercise, capsys):
    fresh = importlib.import_module(f"minimistral.exercises.{module}")
    assert fresh and 1 <= len(exercise.hints) <= 5
    exercise._opened = 0
    for n in range(len(exercise.hints) + 1):
        exercise.hint()
        assert f"hint {min(n + 1, len(exercise.hints))} of" in capsys.readouterr().out
    exercise._attempted = False
    exercise.solution()
    assert "try it first" in capsys.readouterr().out
    exercise.solution(now=True)
    assert f"def {exercise.name}(" in capsys.readouterr().out or exercise.cases is None


# --- the same through the notebook's own cell ---------------------------------------------------------------------------


def notebook_cells(exercise):
    tag = f"exercise:{exercise.name}"
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        cells = nbformat.read(path, 4).cells
        for n, cell in enumerate(cells):
            if tag in cell.metadata.get("tags", []):
                yield path, cells[:n], cell


@each
def test_answers_typed_into_the_notebook(module, exercise, capsys):
    from IPython.core.interactiveshell import InteractiveShell

    found = list(notebook_cells(exercise))
    assert len(found) == 1, f"expected one cell tagged exercise:{exercise.name}, found {len(found)}"
    _, before, cell = found[0]
    shell = InteractiveShell()
    for earlier in before:  # what the cell needs: the imports
        if earlier.cell_type == "code" and "setup" in earlier.metadata.get("tags", []):
            assert shell.run_cell(earlier.source).success
    attempts = [("✓", right) for right in exercise.rights] + [("✗", wrong) for _, wrong in exercise.mistakes]
    for mark, attempt in attempts:
        capsys.readouterr()
        result = shell.run_cell(typed_in(cell.source, exercise, attempt))
        out = capsys.readouterr().out
        assert result.success, out
        assert "NameError" not in out, out
        assert re.search(rf"^{mark} {exercise.name}", out, re.M), (frame.source(attempt, exercise.name), out)
    capsys.readouterr()
    assert shell.run_cell(cell.source).success
    assert f"○ {exercise.name}: not attempted yet" in capsys.readouterr().out


def typed_in(cell: str, exercise, attempt) -> str:
    """The cell with its stub replaced by an attempt; the rest, with the check, stays."""
    if exercise.cases is None:
        typed, n = re.subn(rf"^{exercise.name} = .*$", lambda _: f"{exercise.name} = {attempt()!r}", cell, flags=re.M)
    else:
        written = frame.source(attempt, exercise.name)
        typed, n = re.subn(rf"^def {exercise.name}\(.*?(?=^\S)", lambda _: written + "\n\n", cell, flags=re.M | re.S)
    assert n == 1, f"the cell has no stub of {exercise.name} followed by its check"
    module = exercise.answer.__module__
    helpers = f"import torch, {module} as its\nglobals().update({{n: v for n, v in vars(its).items() if n[:2] != '__'}})\n"
    return helpers + typed


# --- the frame, on an exercise of its own -------------------------------------------------------------------------------


@pytest.fixture
def double():
    exercise = Exercise("double", cases=lambda: [(torch.tensor([1.0]),), (torch.arange(6.0).view(2, 3),)], hints=["x + x"])
    exercise.reference(lambda x: 2 * x)
    exercise.mistake("It is squared.")(lambda x: x * x)
    return exercise


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no")


def mutates(x):
    x *= 2
    return x


def spins(x):
    while True:
        pass


@pytest.mark.parametrize(
    "yours,said",
    [
        (lambda x: 1 / 0, "raises ZeroDivisionError: division by zero"),
        (lambda x: x.to(torch.float64) * 2, "expected torch.float32, got torch.float64"),
        (lambda x: (2 * x)[None], "expected the shape (1,), got (1, 1)"),
        (lambda x: x * float("nan"), "has NaN at [0]"),
        (lambda x: (2 * x).tolist(), "expected a tensor of shape (1,), got [2]"),
        (mutates, "changes its input x in place"),
        (lambda: 3, "raises TypeError"),
        (lambda x: exec("raise SystemExit(3)"), "raises SystemExit: 3"),
        (7, "expected a function, got 7"),
        (torch.nn.functional.scaled_dot_product_attention, "raises TypeError"),
        (lambda x: torch.arange(3).softmax(-1), "raises NotImplementedError"),
        (lambda x: (2 * x).to_sparse(), "cannot be compared"),
        (lambda x: Unspeakable(), "got <Unspeakable>"),
        (lambda x: (_ for _ in ()).throw(ValueError(Unspeakable())), "raises ValueError"),
        (lambda *args: args[0].mul_(2), "changes its input args in place"),
    ],
)
def test_each_trouble_is_one_line(double, capsys, yours, said):
    line = verdict(capsys, double, yours)
    assert line.startswith("✗ double") and said in line and "\n" not in line
    assert explained(capsys, double).startswith("double: ")


def test_a_loop_without_end_is_stopped(double, capsys, monkeypatch):
    monkeypatch.setattr(frame, "SECONDS", 0.5)
    before = threading.active_count()  # other tests of this process may have left some
    assert "stopped after 0.5 seconds" in verdict(capsys, double, spins)
    assert threading.active_count() < before + 20
    assert verdict(capsys, double, lambda x: x + x).startswith("✓")


def test_a_loop_that_swallows_the_interrupt_is_stopped_too(double, capsys, monkeypatch):
    def deaf(x):
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            try:
                time.sleep(0.01)
            except:  # noqa: E722
                pass
        return 2 * x

    monkeypatch.setattr(frame, "SECONDS", 0.3)
    assert "stopped after 0.3 seconds" in verdict(capsys, double, deaf)


def test_why_says_what_happened_last(double, capsys):
    assert "not attempted" in verdict(capsys, double, None)
    verdict(capsys, double, 7)
    assert "without brackets" in explained(capsys, double)
    verdict(capsys, double, lambda x: double.answer(x))
    assert "the numbers are right" in explained(capsys, double)
    verdict(capsys, double, lambda x: x + x)
    assert "nothing to explain" in explained(capsys, double)


def test_numpy_numbers_and_lists_count(capsys):
    exercise = Exercise("three", cases=lambda: [(1,)])
    exercise.reference(lambda x: [3, 4])
    for yours in (np.array([3, 4]), [np.int64(3), 4], torch.tensor([3, 4])):
        assert verdict(capsys, exercise, lambda x, yours=yours: yours).startswith("✓")
    value = Exercise("value")
    value.reference(lambda: 0.42)
    assert verdict(capsys, value, np.float64(0.42)).startswith("✓")
    for odd in (2**2000, "0.42", [0.42], np.array([1, 2])):
        assert verdict(capsys, value, odd).startswith("✗")


def test_the_first_difference_is_shown(double, capsys):
    line = verdict(capsys, double, lambda x: x.abs() * 2 + (x > 4))
    assert "differs first at [1, 2]: expected 10, got 11" in line


def test_two_numbers_that_look_alike_get_more_digits(double, capsys):
    assert "differs first at [0]: expected 2, got 2.0004" in verdict(capsys, double, lambda x: 2.0004 * x)
    assert frame.difference([1.0, 2.0], [1.0, 2.0000004], 1e-9) == "expected [1, 2], got [1, 2.0000004]"
    assert frame.difference(1.0, 1.0 + 1e-12, 1e-15).startswith("expected 1, got 1.000000000001")


@pytest.mark.parametrize(
    "yours,said",
    [
        (lambda x: x.double() * 2, "expected torch.float32, got torch.float64"),
        (lambda x: (2 * x)[None], "expected the shape (1,), got (1, 1)"),
        (lambda x: 1 / 0, "raises ZeroDivisionError: division by zero"),
    ],
)
def test_why_repeats_what_is_no_matter_of_numbers(double, capsys, yours, said):
    verdict(capsys, double, yours)
    assert f"double: {said}. Mend that first." == explained(capsys, double)
    verdict(capsys, double, lambda x: x + 7)
    assert "work it out by hand" in explained(capsys, double)


def test_a_missing_result_is_counted(capsys):
    exercise = Exercise("pair", cases=lambda: [(torch.ones(20),)], hints=["Both."])
    exercise.reference(lambda x: (x, 2 * x))
    for yours, got in ((lambda x: (x,), "1"), (lambda x: x, "<tensor (20,)>")):
        assert f"expected 2 results, got {got}" in verdict(capsys, exercise, yours)
        assert f"expected 2 results, got {got}. Mend that first." in explained(capsys, exercise)


def test_why_counts_the_right_numbers_of_a_list(capsys):
    exercise = Exercise("three", hints=["Count."])
    exercise.reference(lambda: [3, 4, 5])
    for yours, said in (([3, 4, 9], "Of your 3 values, 2 are right. Count."), ([3, 9, 9], "Of your 3 values, 1 is right. Count."),
                        ([9, 9, 9], "Of your 3 values, none are right. Count."), ([3, 4], "known here. Count.")):  # fmt: skip
        verdict(capsys, exercise, yours)
        assert explained(capsys, exercise).endswith(said)


def test_an_answer_runs_within_what_the_exercise_asks_for(capsys):
    exercise = Exercise("grad", cases=lambda: [(1,)], within=torch.inference_mode)
    exercise.reference(lambda x: True)
    assert verdict(capsys, exercise, lambda x: torch.is_inference_mode_enabled()).startswith("✓")


def test_use_takes_yours_only_when_right(double, capsys):
    yours = lambda x: x + x  # noqa: E731
    assert double.use(lambda x: x) is double.answer
    assert "the library's is used" in capsys.readouterr().out
    assert double.use(yours) is yours
    assert "yours is used" in capsys.readouterr().out


def test_borrowing_from_the_library_is_noticed(capsys):
    import minimistral as mm
    from minimistral.exercises.frame import Exercise

    q, k = torch.rand(1, 4, 5, 2), torch.rand(1, 2, 5, 2)
    exercise = Exercise("attend", cases=lambda: [(q, k, k)], forbid=("scaled_dot_product_attention",))
    exercise.reference(lambda q, k, v: mm.naive.attend(q, k, v))
    assert "calls minimistral.attention.attend" in verdict(capsys, exercise, lambda q, k, v: mm.attend(q, k, v))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    line = verdict(capsys, exercise, lambda q, k, v: sdpa(q, k, v, is_causal=True, enable_gqa=True))
    assert "right, but not yours: it calls scaled_dot_product_attention" in line
