"""Every test, stage by stage: make test.

    python tests/run.py                   all stages
    python tests/run.py units browser     these

Ends with what was skipped and why, and a line of totals. REQUIRE_ALL=1: whatever is skipped or cannot run here fails.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

import browser
import torch

ROOT = Path(__file__).parent.parent
SECONDS = 85 * 60  # for everything together
NBVAL = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with=tests/nbval.cfg", "--nbval-cell-timeout=300"]


@dataclass
class Result:
    """What came of one stage."""

    stage: str
    passed: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)  # "test: reason"
    seconds: float = 0.0


def commands() -> dict[str, list[str]]:
    """What each stage runs after `python -m`."""
    notebooks = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    return {
        "lint": ["ruff", "check", "."],
        "types": ["mypy"],
        "units": ["pytest", "-q", "-n", "2", "-m", "not browser and not pictures"],
        "notebooks": ["pytest", "-q", "-n", "2", "--dist", "loadfile", *NBVAL, *(notebooks or ["notebooks"])],
        "pictures": ["pytest", "-q", "-n", "2", "-m", "pictures", "tests/test_notebooks.py"],
        "browser": ["pytest", "-q", "-m", "browser", "tests"],
    }


def run(stage: str, command: list[str], seconds: float) -> Result:
    """Run one stage, its output streaming by; at most so many seconds."""
    print(f"\n==== {stage}: python -m {' '.join(command)}", flush=True)
    result, start = Result(stage), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="minimistral-run-") as folder:
        report = Path(folder) / "report.xml"
        tested = command[0] == "pytest"
        extra = [f"--junitxml={report}", "-p", "no:cacheprovider"] if tested else []
        try:
            code = subprocess.run([sys.executable, "-m", *command, *extra], cwd=ROOT, stdin=subprocess.DEVNULL, timeout=seconds)
            ok = code.returncode == 0
        except subprocess.TimeoutExpired:
            print(f"{stage} was stopped: the time for all tests, {SECONDS // 60} minutes, is over.", flush=True)
            ok = False
        if report.exists():
            count(report, result)
        if not tested:
            result.passed, result.failed = int(ok), int(not ok)
        elif not ok and not result.failed:
            result.failed = 1  # it broke before or beside the tests
    result.seconds = time.monotonic() - start
    return result


def count(report: Path, result: Result):
    """Add up what pytest's report says. A test that fails as expected has passed."""
    for case in ET.parse(report).iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed += 1
        elif skip is not None and skip.get("type") != "pytest.xfail":
            result.skipped.append(f"{case.get('classname')}.{case.get('name')}: {skip.get('message')}")
        else:
            result.passed += 1


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", help=f"which of {', '.join(commands())} (default: all)")
    chosen = parser.parse_args(argv).stages or list(commands())
    if unknown := set(chosen) - set(commands()):
        parser.error(f"there is no stage {', '.join(sorted(unknown))}; expected {', '.join(commands())}")
    start, results, missing = time.monotonic(), [], []
    for stage in chosen:
        if stage == "browser" and browser.find_chromium() is None:
            missing.append(f"The browser tests did not run: there is no Chromium; {browser.INSTALL}")
            continue
        results.append(run(stage, commands()[stage], max(1, SECONDS - (time.monotonic() - start))))
    return summarise(results, missing, require_all=os.environ.get("REQUIRE_ALL") == "1")


def summarise(results: list[Result], missing: list[str], require_all: bool) -> int:
    """Print what happened; return the exit status."""
    print("\n==== summary")
    for result in results:
        skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
        print(f"{result.stage:<10} {result.passed} passed, {result.failed} failed{skipped} in {result.seconds:.0f} s")
    if not torch.cuda.is_available():
        print("The tests marked gpu were left out: there is no CUDA device here.")
    if not os.environ.get("MINIMISTRAL_FULL"):
        print("The test of the full 7B size was left out: MINIMISTRAL_FULL=1 runs it (14.5 GB on disk, minutes).")
    for line in [f"skipped: {line}" for result in results for line in result.skipped] + missing:
        print(line)
    passed, failed = sum(result.passed for result in results), sum(result.failed for result in results)
    absent = len(missing) + sum(len(result.skipped) for result in results)
    if require_all and absent:
        print(f"REQUIRE_ALL=1: {absent} skipped or missing count as failed.")
        failed += absent
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
