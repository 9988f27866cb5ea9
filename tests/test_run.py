"""What `make test` says at its end, and what its sanitiser takes for the same."""

import configparser
import re
from pathlib import Path

import pytest
import run

REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="one"/>
<testcase classname="tests.a" name="two"><failure message="no"/></testcase>
<testcase classname="tests.a" name="three"><error message="no"/></testcase>
<testcase classname="tests.a" name="four"><skipped type="pytest.skip" message="no GPU"/></testcase>
<testcase classname="tests.a" name="five"><skipped type="pytest.xfail" message="known"/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_added_up(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    result = run.Result("units")
    run.count(tmp_path / "report.xml", result)
    assert (result.passed, result.failed, result.skipped) == (2, 2, ["tests.a.four: no GPU"])


@pytest.mark.parametrize(
    ("failed", "skipped", "missing", "require_all", "status", "last"),
    [
        (0, [], [], True, 0, "7 passed, 0 failed"),
        (1, [], [], False, 1, "7 passed, 1 failed"),
        (0, ["a.b: no GPU"], [], False, 0, "7 passed, 0 failed"),
        (0, ["a.b: no GPU"], [], True, 1, "7 passed, 1 failed"),
        (0, [], ["no Chromium"], False, 0, "7 passed, 0 failed"),
        (0, [], ["no Chromium"], True, 1, "7 passed, 1 failed"),
    ],
)
def test_the_summary_names_what_did_not_run_and_ends_with_the_totals(
    failed, skipped, missing, require_all, status, last, capsys
):
    results = [run.Result("lint", passed=1), run.Result("units", passed=6, failed=failed, skipped=skipped)]
    assert run.summarise(results, missing, require_all) == status
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == last
    assert all(any(line in one for one in said) for line in skipped + missing)


def test_a_stage_that_breaks_fails(capfd):
    assert run.run("units", ["pytest", "no/such/file.py"], 60).failed == 1
    assert run.run("lint", ["ruff", "no-such-command"], 60).failed == 1


def test_a_stage_that_does_not_end_is_stopped(capfd):
    result = run.run("slow", ["timeit", "-n1", "-r1", "__import__('time').sleep(60)"], 2)
    assert result.failed == 1 and result.seconds < 30
    assert "was stopped" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("<A at 0x7f0012ab>", "<A at 0x7f99ffff>", True),
        ("took 1.25 s", "took 3 s", True),
        ("/tmp/ipykernel_1/22.py:3: UserWarning: x", "/tmp/ipykernel_3/44.py:3: UserWarning: x", True),
        (r"C:\Users\a\AppData\Local\Temp\ipykernel_1\2.py:3: W", "/tmp/ipykernel_3/44.py:3: W", True),
        ("10/10 [00:01<00:00, 7.1it/s]", "10/10 [00:02<00:00, 4.1it/s]", True),
        ("loss 1.25", "loss 1.26", False),
        ("window 4, 3 slots", "window 4, 4 slots", False),
    ],
)
def test_the_sanitiser_hides_the_machine_and_no_numbers(one, other, same):
    assert (sanitise(one) == sanitise(other)) == same


def test_the_sanitiser_is_quick_on_a_long_picture():
    assert len(sanitise("ab/+" * 50_000)) == 200_000


def sanitise(text):
    config = configparser.RawConfigParser()
    config.read(Path(__file__).with_name("nbval.cfg"))
    for section in config.sections():
        text = re.sub(config.get(section, "regex"), config.get(section, "replace"), text)
    return text
