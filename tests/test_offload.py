"""A pass that holds one layer at a time: the same logits, to the bit, in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import random_ids, small_model
from safetensors.torch import load_file, save_file

import minimistral as mm
from minimistral import checkpoint, mock, offload, room


@pytest.mark.parametrize("window", [5, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", ["native", "hf"])
def test_logits_are_those_of_the_resident_model(tmp_path, window, dtype, format):
    write = mm.save if format == "native" else checkpoint.export
    write(small_model(window, n_layers=3).to(dtype), tmp_path)
    tokens = random_ids(2, 13)
    for wanted in (None, torch.float32):
        model, _ = mm.load(tmp_path, device="cpu", dtype=wanted)
        assert torch.equal(offload.forward(tmp_path, tokens, dtype=wanted, progress=False), model(tokens))
    last = offload.forward(tmp_path, tokens, dtype=torch.float32, last_only=True, progress=False)
    assert torch.equal(last, model(tokens, last_only=True))


def test_a_layer_is_dropped_before_the_next_is_read(tmp_path, monkeypatch):
    mm.save(small_model(5, n_layers=4), tmp_path)
    held, most = [], []
    read, right = checkpoint.read_tensor, torch.nn.Module.to_empty

    def reading(native, *rest):
        held.append(native)
        most.append({name.rsplit(".", 3)[0] if "layers" not in name else name.split(".")[1] for name in held})
        return read(native, *rest)

    def dropping(part, **options):
        held.clear()
        return right(part, **options)

    monkeypatch.setattr(checkpoint, "read_tensor", reading)
    monkeypatch.setattr(torch.nn.Module, "to_empty", dropping)
    offload.forward(tmp_path, random_ids(1, 6), progress=False)
    assert len(most) == 4 * 9 + 3 and all(len(parts) == 1 for parts in most)


PROGRAM = """
import json, sys, torch
from pathlib import Path
from minimistral import mock, offload
def status(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))
offload.forward(sys.argv[1], torch.tensor([[1, 2]]), progress=False)  # imports and first products
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
offload.forward(sys.argv[2], torch.tensor([[1, 2]]), progress=False)
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux tells it")
def test_memory_is_that_of_the_largest_part(tmp_path):
    tall = mm.MistralConfig(dim=512, n_layers=24, n_heads=8, n_kv_heads=2, head_dim=64, hidden_dim=2048, vocab_size=4096)
    mock.write(tmp_path / "tall", tall, progress=False)
    mm.save(small_model(5).bfloat16(), tmp_path / "tiny")
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path / "tiny", tmp_path / "tall"], capture_output=True, check=True)
    weights = checkpoint.inspect(tmp_path / "tall").nbytes
    assert weights > 150e6 and json.loads(done.stdout) < weights / 4


def test_what_load_refuses_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    mm.save(small_model(5), tmp_path)
    monkeypatch.setattr(room, "memory", lambda device: 100)
    with pytest.raises(mm.CheckpointError, match="largest part .* needs 0.0 MiB of memory, 0.0 MiB .* on cpu. Close other"):
        offload.forward(tmp_path, random_ids(1, 6))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="holds the id 40"):
        offload.forward(tmp_path, torch.tensor([[40]]), progress=False)
    (tmp_path / "consolidated.safetensors").write_bytes(b"")
    with pytest.raises(mm.CheckpointError, match="not a whole safetensors file"):
        offload.forward(tmp_path, random_ids(1, 6))


def test_nan_is_warned_of_and_progress_counts_all_bytes(tmp_path, capsys):
    mm.save(small_model(5), tmp_path)
    tensors = load_file(tmp_path / "consolidated.safetensors")
    tensors["layers.1.ffn_norm.weight"][3] = float("nan")
    save_file(tensors, tmp_path / "consolidated.safetensors")
    with pytest.warns(UserWarning, match="NaN or infinity is in layers.1.ffn_norm.weight"):
        offload.forward(tmp_path, random_ids(1, 6))
    assert "100%" in capsys.readouterr().err
