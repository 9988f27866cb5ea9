"""bench all: what it does where something is missing, wrong, too large or interrupted, and what stands in the record."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minimistral import bench, masks
from minimistral.bench import all as everything
from minimistral.bench import attention, cases, decode, measure, prefill
from minimistral.cli import main

ROOT = Path(__file__).parent.parent
SMALL = cases.MistralConfig(32, 2, 4, 2, 16, 48, 64, sliding_window=16)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The same benchmarks on models of a moment."""
    monkeypatch.setattr(cases, "CONFIGS", {"1.8M": SMALL, "141M": replace(SMALL, dim=48, sliding_window=8)})
    monkeypatch.setattr(prefill, "LENGTHS", {"141M": (700, 520)})  # from 512 on the triangles are at work
    monkeypatch.setattr(everything, "SHARES", {"attention": 0.3, "prefill": 0.4, "decode": 0.3})
    run = attention.run
    monkeypatch.setattr(attention, "run", lambda device, rounds: run(300, 60, device=device, rounds=rounds))


def all_into(tmp_path, *more, status=0):
    out = tmp_path / "here.json"
    assert main(["bench", "all", "--device", "cpu", "--rounds", "2", "--out", str(out), *more]) == status
    return json.loads(out.read_text())


def test_one_file_holds_every_sample_the_machine_and_the_ceilings(tmp_path, capsys, monkeypatch):
    kinds = tuple(everything.SHARES)
    monkeypatch.setattr(everything.run, "__defaults__", ("cpu", 5, 400, lambda record: None, kinds))
    whole = all_into(tmp_path)
    kinds = [record["benchmark"] for record in whole["records"]]
    assert kinds == ["attention", "prefill", "decode"] and not whole["absent"] and "interrupted" not in whole
    assert {"date", "processor", "torch", "transformers", "threads"} <= set(whole["machine"])
    for record in whole["records"]:
        for result in record["results"].values():
            assert "failed" not in result
            assert all(len(taken) == 2 and min(taken) > 0 for taken in result["seconds"].values())
    _, pre, dec = whole["records"]
    assert {"window", "full", "transformers"} <= set(pre["results"]["141M"]["seconds"])
    assert {"model(...)", "captured, at 8 W", "transformers"} <= set(dec["results"]["1.8M"]["seconds"])
    assert all(result["differs_from_judge"] < 1e-4 for record in (pre, dec) for result in record["results"].values())
    printed = capsys.readouterr().out
    assert "at most" in printed and "rates measured in the same run" in printed and "a rival" in printed


def test_the_ceiling_of_prefill_is_what_its_own_parts_allow():
    pairs = masks.count(700, 520) / masks.count(700)
    result = {"seconds": {"matrices, one layer": [3.0, 3, 3], "causal attention, one layer": [1.0, 1, 1]}, "N": 700,
              "config": {"sliding_window": 520}}  # fmt: skip
    assert prefill.prediction(result) == pytest.approx(4 / (3 + pairs))
    assert prefill.prediction({"seconds": {}}) is None


def test_out_of_memory_in_the_middle_is_said_in_its_row_and_the_rest_goes_on():
    calls = []

    def greedy():
        calls.append(1)
        if len(calls) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64 GiB")

    seconds, absent = {}, {}
    measure.paired({"a": lambda: None, "greedy": greedy, "b": lambda: None}, 4, "cpu", seconds=seconds, absent=absent)
    assert absent == {"greedy": "out of memory"} and {name: len(taken) for name, taken in seconds.items()} == {"a": 4, "b": 4}


@pytest.mark.parametrize("where", ["a case", "a contender", "a benchmark"])
def test_the_record_is_whole_when_something_runs_out_of_memory(where, monkeypatch, tmp_path, capsys):
    def no_room(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    target = {"a case": (cases, "random_model"), "a contender": (decode, "dynamic"), "a benchmark": (prefill, "run")}[where]
    monkeypatch.setattr(*target, no_room)
    monkeypatch.setattr(everything.run, "__defaults__", ("cpu", 5, 400, lambda record: None, ("prefill", "decode")))
    whole = all_into(tmp_path)
    printed = capsys.readouterr().out
    assert "out of memory" in printed
    records = {record["benchmark"]: record for record in whole["records"]}
    if where == "a benchmark":
        assert whole["absent"] == {"prefill": "out of memory"} and list(records) == ["decode"]
    elif where == "a case":
        assert {result["failed"] for record in records.values() for result in record["results"].values()} == {"out of memory"}
    else:
        result = records["decode"]["results"]["1.8M"]
        assert result["absent"] == {"transformers": "out of memory"} and len(result["seconds"]["captured, at 4 W"]) == 2
        assert "transformers: out of memory" in printed


def test_a_peer_that_is_missing_is_not_installed_and_never_a_zero(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    record = decode.run(rounds=2, sizes=("1.8M",))
    result = record["results"]["1.8M"]
    assert result["absent"] == {"transformers": "not installed"} and "transformers" not in result["seconds"]
    assert "transformers: not installed" in capsys.readouterr().out


def test_a_model_that_is_wrong_is_not_timed(monkeypatch, capsys):
    right = cases.RollingBuffer.held
    monkeypatch.setattr(cases.RollingBuffer, "held", staticmethod(lambda slots, position, size: right(slots, position, size) - 3))
    for run in (decode.run, lambda **options: prefill.run(rounds=2)):
        (result,) = run(rounds=2, **({"sizes": ("1.8M",)} if run is decode.run else {}))["results"].values()
        assert "differ from the dense judge" in result["failed"] and not result["seconds"]
    assert "nothing was timed" in capsys.readouterr().out


def test_an_interrupt_keeps_what_was_measured(monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(everything.run, "__defaults__", ("cpu", 5, 400, lambda record: None, ("attention", "decode", "prefill")))
    monkeypatch.setattr(decode, "dynamic", stop)
    whole = all_into(tmp_path, status=130)
    assert [record["benchmark"] for record in whole["records"]] == ["attention", "decode"] and whole["interrupted"]
    assert len(whole["records"][0]["results"]["float32"]["seconds"]["auto"]) == 2
    assert whole["records"][1]["interrupted"]


def test_an_interrupt_between_two_calls_keeps_their_samples():
    calls, seconds = [], {}

    def stop():
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure.paired({"a": stop, "b": lambda: None}, 9, "cpu", seconds=seconds, absent={})
    assert len(seconds["a"]) == 2 and len(seconds["b"]) in (2, 3)
    one = cases.figure("a over b", "a", "b")
    assert "times" in cases.said(one, seconds, {}) or "no difference" in cases.said(one, seconds, {})
    assert cases.said(one, {"a": [1.0], "b": [2.0]}, {}) == "too few rounds"


def test_a_file_that_exists_is_not_overwritten_without_being_told(tmp_path, capsys):
    out = tmp_path / "here.json"
    out.write_text("mine")
    command = ["bench", "decode", "--device", "cpu", "--rounds", "2", "--out", str(out)]
    assert main(command) == 2 and out.read_text() == "mine"
    assert "exists" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0 and json.loads(out.read_text())["benchmark"] == "decode"


def test_time_is_kept_once_there_are_two_rounds():
    seconds = measure.paired({"slow": lambda: time.sleep(0.02)}, 100, "cpu", within=0.1)
    assert 2 <= len(seconds["slow"]) < 10
    absent = {}
    seconds = measure.paired({"slow": lambda: time.sleep(0.2), "quick": lambda: None}, 3, "cpu", absent=absent, within=0.1)
    assert absent["slow"].startswith("left out: 0 s a call") and list(seconds) == ["quick"]


def test_a_row_without_a_record_says_so_and_every_record_can_be_shown():
    table = bench.goals([])
    assert {line.measured for line in table.lines} == {"not recorded yet"} and len(table.lines) == 13
    assert "not recorded yet" in str(table) and "not recorded yet" in table._repr_html_()
    for record in bench.recorded():
        shown = bench.table(record)
        assert shown.lines or shown.notes
        assert str(shown).startswith(record["benchmark"]) and "<table>" in shown._repr_html_()
    assert all(record["benchmark"] == "attention" for record in bench.recorded("attention")) and bench.recorded("no such") == []
    assert "not recorded yet" not in bench.goals().lines[0].measured


def test_all_runs_without_an_installation_and_survives_ctrl_c(tmp_path):
    """From a bare checkout on torch, numpy, safetensors and tqdm alone; stopped once the first record is on disk."""
    hidden = ("sentencepiece", "mistral_common", "transformers", "matplotlib", "ipywidgets", "IPython", "huggingface_hub")
    program = (
        f"import sys, signal; sys.modules.update(dict.fromkeys({hidden!r}))\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from minimistral.bench import all, cases, decode, prefill\n"
        "small = cases.MistralConfig(32, 2, 4, 2, 16, 48, 64, sliding_window=16)\n"
        "cases.CONFIGS.update({'1.8M': small, '141M': small})\n"
        "all.run.__defaults__ = ('cpu', 2, 60, all.run.__defaults__[3], ('decode', 'train', 'attention'))\n"
        "from minimistral.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "here.json"
    command = [sys.executable, "-c", program, "bench", "all", "--device", "cpu", "--rounds", "2", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            until = time.time() + 120
            while not out.exists() and running.poll() is None and time.time() < until:
                time.sleep(0.2)
            time.sleep(2)
            os.kill(running.pid, signal.SIGINT)
            told, errors = running.communicate(timeout=120)
        finally:
            running.kill()
    assert running.returncode == 130, errors[-2000:]
    whole = json.loads(out.read_text())
    assert whole["interrupted"] and whole["absent"] == {"train": "not installed"}
    result = whole["records"][0]["results"]["1.8M"]
    assert result["absent"]["transformers"] == "not installed" and "transformers: not installed" in told
