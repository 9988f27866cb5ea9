"""Plant each bug of the museum into the library, in a process of its own, and see which tests turn red.

    python tests/plant.py          all of them: a table of the bugs and the tests that catch them
    python tests/plant.py 8 12     these

minimistral/museum/proof.py says which tests are tried. With the bug planted each of them must fail by its own assertion, and
the one that is named as not noticing it must pass; without it all must pass.
"""

import contextlib
import io
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Tally:
    """A pytest plugin: notes of each test "" if it passed, or how it failed."""

    def __init__(self):
        self.how: dict[str, str] = {}

    def pytest_runtest_logreport(self, report):
        crash = getattr(report.longrepr, "reprcrash", None)
        how = "" if report.passed else crash.message.split("\n")[0] if crash else str(report.longrepr)
        name = report.nodeid.removeprefix("tests/")
        self.how[name] = self.how.get(name) or how


def outcomes(plant: tuple[int, str] | None, tests: list[str]) -> tuple[dict[str, str], str]:
    """Run these tests here and now, with a bug planted before any of their files is imported: -> of each how it failed or "",
    and what pytest printed."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, and they cost seconds
    os.environ.pop("PYTEST_ADDOPTS", None)
    import pytest

    from minimistral import museum

    tally, said = Tally(), io.StringIO()
    arguments = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml")]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        with museum.planted(*plant) if plant else contextlib.nullcontext():
            pytest.main([*arguments, *(str(ROOT / "tests" / test) for test in tests)], plugins=[tally])
    return tally.how, said.getvalue()


def pool(workers: int = 2) -> ProcessPoolExecutor:
    """Fresh processes, one a task. Where the system can fork, PyTorch is imported once for all of them."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    if kind == "forkserver":
        context.set_forkserver_preload(["minimistral.museum", "pytest", "transformers.models.mistral.modeling_mistral"])
    return ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1)


def complaints(plant: tuple[int, str], how: dict[str, str], said: str = "") -> list[str]:
    """What is wrong with the proof of one bug, a sentence each; how: what outcomes() gave with it planted."""
    from minimistral.museum.proof import PROOF

    catch, passes = PROOF[plant]
    if lost := [test for test in (*catch, passes) if test not in how]:
        return [f"these were not run; is one of them not there any more? {', '.join(lost)}. {errors(said)}"]
    wrong = [f"stays green with the bug planted: {test}" for test in catch if not how[test]]
    if len(wrong) == len(catch):
        wrong = [f"no named test notices it: either the plant has no effect any more, or they are too weak ({', '.join(catch)})"]
    for test in catch:
        if how[test] and not how[test].startswith(("assert", "AssertionError", "Failed")):
            wrong.append(f"fails, but not by its own assertion: {test}: {how[test]}")
    if how[passes]:
        wrong.append(f"was to show why the bug could live, and notices it after all: {passes}: {how[passes]}")
    return wrong


def errors(said: str) -> str:
    """What pytest complained of, in one line."""
    return "; ".join(line for line in said.splitlines() if line.startswith(("ERROR", "E  "))) or said[-500:]


def main(numbers: list[int]) -> int:
    from minimistral import museum
    from minimistral.museum.proof import PROOF

    start, bad = time.perf_counter(), 0
    chosen = {plant: tests for plant, tests in PROOF.items() if not numbers or plant[0] in numbers}
    with pool() as workers:
        union = sorted({test for catch, passes in chosen.values() for test in (*catch, passes)})
        without = workers.submit(outcomes, None, union)
        jobs = {plant: workers.submit(outcomes, plant, [*catch, passes]) for plant, (catch, passes) in chosen.items()}
        how, said = without.result()
        red = [f"{test}: {how[test]}" for test in union if how.get(test)]
        if red or set(how) != set(union):
            bad += 1
            print("✗  0 without any bug\n     " + ("\n     ".join(red) or errors(said)))
        for (number, form), job in jobs.items():
            wrong, (catch, passes) = complaints((number, form), *job.result()), chosen[number, form]
            print(f"{'✗' if wrong else '✓'} {number:2d} {museum.BUGS[number].title}" + (f" ({form})" if form else ""))
            print("\n".join(f"     {line}" for line in wrong or [f"red: {test}" for test in catch] + [f"green: {passes}"]))
            bad += bool(wrong)
    print(f"{len(chosen)} forms of {len({n for n, _ in chosen})} bugs, {bad} not proved; {time.perf_counter() - start:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main([int(n) for n in sys.argv[1:]]))
