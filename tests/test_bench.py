"""The measurements: that they compare what they say, keep what they saw, and claim nothing that does not stand out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minimistral.bench import attention, measure
from minimistral.cli import main

ROOT = Path(__file__).parent.parent


def test_contenders_take_turns_and_the_first_round_does_not_count(monkeypatch):
    calls, clock = [], iter(range(1000))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    seconds = measure.paired({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, "cpu")
    assert "".join(calls) == "ba" + "ab" + "ba" + "ab"
    assert seconds == {"a": [1, 1, 1], "b": [1, 1, 1]}


def test_a_ratio_is_of_rounds_and_says_when_it_shows_nothing():
    clear = measure.ratio([2.0, 4.0, 6.0, 4.0, 20.0], [1.0, 2.0, 3.0, 2.0, 10.0])
    assert (clear.median, clear.low, clear.high) == (2, 2, 2) and str(clear).startswith("2.00 times")
    assert "no difference" in str(measure.ratio([1.0, 2.0, 1.0, 2.0], [2.0, 1.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="2 and 3 samples"):
        measure.ratio([1.0, 2.0], [1.0, 2.0, 3.0])


def test_the_peak_is_what_was_in_use_at_once():
    def one_after_the_other():
        for _ in range(5):
            torch.zeros(250_000).sum()

    def both_at_once():
        kept = [torch.zeros(250_000) for _ in range(5)]
        return len(kept)

    one, five = measure.peak_bytes(one_after_the_other, "cpu"), measure.peak_bytes(both_at_once, "cpu")
    assert 1_000_000 <= one < 1_100_000 and 5_000_000 <= five < 5_100_000


def test_the_record_holds_every_sample_and_who_was_measured(tmp_path, capsys):
    out = tmp_path / "here.json"
    assert main(["bench", "attention", "--tokens", "600", "--window", "100", "--rounds", "3", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    printed = capsys.readouterr().out
    assert record["ceiling"] == pytest.approx(600 * 601 / 2 / (100 * 101 / 2 + 500 * 100))
    assert {"date", "processor", "cores", "threads", "python", "torch"} <= set(record["machine"])
    for dtype in ("float32", "bfloat16"):
        result = record["results"][dtype]
        assert result["auto"] in ("triangles", "varlen")
        assert {"mask", "auto"} < set(result["seconds"]) and attention.baseline(result["seconds"]) in printed
        assert all(len(samples) == 3 and min(samples) > 0 for samples in result["seconds"].values())
        assert result["differs_from_mask"]["auto"] < 0.05
        mask = 600 * 600
        assert result["peak_bytes"]["auto"] > 0 and result["peak_bytes"]["mask"] > mask
    assert attention.table(record) in printed and f"at most {record['ceiling']:.3f}" in printed


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--window", "0"], "window is 0"),
        (["--tokens", "100", "--window", "100"], "more tokens than the window"),
        (["--rounds", "1"], "--rounds is 1"),
        (["--out", "no/such/folder/x.json"], "no folder no/such/folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_starts(arguments, words, capsys):
    assert main(["bench", "attention", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_it_runs_without_an_installation_on_torch_numpy_safetensors_and_tqdm_alone(tmp_path):
    """From a bare checkout: whatever else is installed here is hidden from the process."""
    hidden = ("sentencepiece", "mistral_common", "transformers", "matplotlib", "ipywidgets", "IPython", "huggingface_hub")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden!r})); "
        "from minimistral.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = ["bench", "attention", "--tokens", "40", "--window", "8", "--rounds", "2"]
    done = subprocess.run([sys.executable, "-c", program, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "at most" in done.stdout
