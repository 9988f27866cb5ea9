"""Folders laid out as the 7B's: made, loaded, exported and measured, at small width; at full size with MINIMISTRAL_FULL=1."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import largest_difference, random_ids, small_model
from transformers import MistralForCausalLM

import minimistral as mm
from minimistral import checkpoint, files, mock, room, writing
from minimistral.bench import load
from minimistral.cli import main

LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux tells it")
BYTES = {"v0.1": 14_483_464_192, "v0.2": 14_483_464_192, "v0.3": 14_496_047_104}


def small(version="v0.1", layers=2):
    return mock.narrow(replace(mock.CONFIGS[version], n_layers=layers, vocab_size=500), 16)


# --- the mock ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", BYTES)
def test_the_layout_is_the_release_s(version, tmp_path, monkeypatch):
    """At full size, without its numbers: names, shapes, bytes."""
    monkeypatch.setattr(writing, "write_all", lambda files: None)
    seen = {}
    monkeypatch.setattr(writing, "_split", lambda spelled, tensors, *_: seen.update(tensors) or {})
    mock.write(tmp_path, mock.CONFIGS[version], progress=False)
    assert sum(tensor.nbytes for tensor in seen.values()) == BYTES[version] and len(seen) == 291
    assert {tensor.dtype for tensor in seen.values()} == {torch.bfloat16}
    assert seen["layers.31.attention.wk.weight"].shape == (1024, 4096)
    assert seen["layers.0.feed_forward.w2.weight"].shape == (4096, 14336)


@torch.no_grad()
@pytest.mark.parametrize("version", BYTES)
def test_every_format_of_one_seed_is_one_model(version, tmp_path):
    tokens, logits = random_ids(1, 9, vocab_size=500), []
    for n, (format, shards) in enumerate([("hf", 3), ("hf", 1), ("hf", 20), ("native", 3), ("pth", 3)]):
        folder = tmp_path / str(n)
        mock.write(folder, small(version), format=format, shards=shards, progress=False)
        found = checkpoint.inspect(folder)
        assert found.config == small(version) and found.dtype == torch.bfloat16
        assert (found.format, len(found.files)) == ("hf" if format == "hf" else "native", shards if format == "hf" else 1)
        assert found.nbytes == sum(p.nbytes for p in mm.Mistral(found.config).bfloat16().parameters())
        logits.append(mm.load(folder, device="cpu")[0](tokens))
    assert logits[0].std() > 0.1 and all(torch.equal(logits[0], other) for other in logits)
    mock.write(tmp_path / "other", small(version), seed=1, progress=False)
    assert largest_difference(mm.load(tmp_path / "other", device="cpu")[0](tokens), logits[0]) > 0.1


def test_shards_are_of_about_one_size_and_the_index_says_so(tmp_path):
    mock.write(tmp_path, small(layers=12), progress=False)
    sizes = [path.stat().st_size for path in tmp_path.glob("model-0000?-of-00003.safetensors")]
    assert len(sizes) == 3 and max(sizes) < 1.3 * min(sizes)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == checkpoint.inspect(tmp_path).nbytes
    assert set(index["weight_map"]) == {checkpoint.hf_name(name) for name in checkpoint.expected_shapes(small(layers=12))}


@pytest.mark.parametrize("version, tokenizer", [("v0.1", "v1"), ("v0.2", "v1"), ("v0.3", "v3")])
def test_the_command_makes_a_small_folder_and_says_its_bytes_first(version, tokenizer, tmp_path, capsys):
    assert main(["mock", str(tmp_path / "new"), "--version", version, "--layers", "1", "--format", "native"]) == 0
    model, ours = mm.load(tmp_path / "new", device="cpu")
    assert model.config == mock.narrow(replace(mock.CONFIGS[version], n_layers=1)) and ours.version == tokenizer
    assert f"{2 * model.n_parameters():,} bytes of tensors" in capsys.readouterr().out


def test_a_disk_without_room_is_said_with_numbers_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(room, "disk", lambda folder: 10 * 2**30)
    assert main(["mock", str(tmp_path / "new"), "--full"]) == 2
    said = capsys.readouterr().err
    assert "needs 13.49 GiB (14,483,464,192 bytes)" in said and "10.00 GiB free" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("settings, words", [
    (dict(format="gguf"), "'gguf'"), (dict(shards=0), "shards is 0"), (dict(shards=99), "21 tensors"),
    (dict(dtype=torch.float64), "float64"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        mock.write(tmp_path / "new", small(), progress=False, **settings)
    with pytest.raises(ValueError, match="by is 3"):
        mock.narrow(mock.CONFIGS["v0.1"], 3)
    assert not (tmp_path / "new").exists()


def test_a_write_that_fails_in_its_middle_leaves_the_old_files_and_no_part(tmp_path, monkeypatch):
    mock.write(tmp_path, small(), progress=False)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    right, calls = writing._bytes, []

    def fails(tensor):
        calls.append(tensor)
        if len(calls) == 10:
            raise OSError(28, "No space left on device")
        return right(tensor)

    monkeypatch.setattr(writing, "_bytes", fails)
    with pytest.raises(OSError, match="No space left"):
        mock.write(tmp_path, small(), seed=1, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_files_are_put_in_place_only_when_all_are_whole(tmp_path):
    def fails(path):
        path.write_bytes(b"half")
        raise OSError("no space")

    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError):
        files.write_all({tmp_path / "a": b"new", tmp_path / "b": fails})
    assert (tmp_path / "a").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]


# --- export --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("window", [5, None])
@pytest.mark.parametrize("heads", [(6, 2), (4, 1), (3, 3)])
@pytest.mark.parametrize("shards", [1, 3])
def test_an_exported_model_opens_in_transformers_with_equal_logits(tmp_path, window, heads, shards):
    model = small_model(window, n_heads=heads[0], n_kv_heads=heads[1], norm_eps=3e-4)
    checkpoint.export(model, tmp_path, shards=shards)
    theirs, report = MistralForCausalLM.from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    assert not any(report.values()) and theirs.dtype == torch.float32
    tokens = random_ids(2, 17)
    expected = model(tokens)
    assert expected.abs().max() > 1
    assert largest_difference(theirs(tokens, use_cache=False).logits, expected) < 1e-4
    again, _ = mm.load(tmp_path, device="cpu")
    assert again.config == model.config and torch.equal(again(tokens), expected)


@torch.no_grad()
def test_the_command_writes_either_format_and_back_again_loses_nothing(tmp_path, capsys):
    model = small_model(5, vocab_size=32000).bfloat16()
    mm.save(model, tmp_path / "native", mm.Tokenizer.from_version("v1"))
    assert main(["export", str(tmp_path / "native"), str(tmp_path / "hf"), "--shards", "2"]) == 0
    assert main(["export", str(tmp_path / "hf"), str(tmp_path / "back"), "--format", "native"]) == 0
    for name in ("consolidated.safetensors", "params.json", "tokenizer.model"):
        assert (tmp_path / "native" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    theirs = MistralForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32, attn_implementation="eager")
    tokens = random_ids(1, 13)
    assert largest_difference(theirs(tokens).logits, model.float()(tokens)) < 1e-4
    assert main(["export", str(tmp_path / "native"), str(tmp_path / "native")]) == 2
    assert main(["export", str(tmp_path / "absent"), str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert "is the folder that is read" in said and "does not exist" in said


# --- memory --------------------------------------------------------------------------------------------------------------


def test_too_little_memory_is_said_with_numbers_before_anything_is_read(tmp_path, monkeypatch):
    mock.write(tmp_path, small(), progress=False)
    needed = checkpoint.inspect(tmp_path).nbytes
    monkeypatch.setattr(checkpoint, "_read", lambda *_: pytest.fail("weights were read"))
    monkeypatch.setattr(room, "memory", lambda device: needed - 1)
    with pytest.raises(mm.CheckpointError, match=rf"need {room.gib(needed)} of memory, .* available on cpu"):
        mm.load(tmp_path, device="cpu")
    monkeypatch.setattr(room, "memory", lambda device: 2 * needed - 1)
    with pytest.raises(mm.CheckpointError, match="see minimistral.quantize .*minimistral.offload"):
        mm.load(tmp_path, device="cpu", dtype=torch.float32)
    monkeypatch.undo()
    for enough in (needed, None):  # None: a system that does not say
        monkeypatch.setattr(room, "memory", lambda device, enough=enough: enough)
        mm.load(tmp_path, device="cpu")


def written(root, **contents):
    for name, text in contents.items():
        path = root / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_available_memory_is_the_least_that_kernel_and_control_groups_leave(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"

    def available():
        return room.memory("cpu", proc, groups)

    assert available() is None
    written(proc, meminfo="MemTotal: 9000 kB\nMemAvailable: 8000 kB\n", self__cgroup="0::/a/b\n")
    assert available() == 8000 * 1024
    stat = "inactive_file 300\nactive_file 20\nanon 7\n"
    written(groups, **{"a__b__memoryDOTmax": "max", "a__b__memoryDOTcurrent": "900", "a__b__memoryDOTstat": stat})
    assert available() == 8000 * 1024
    written(groups, **{"a__memoryDOTmax": "5000", "a__memoryDOTcurrent": "4000", "a__memoryDOTstat": stat})
    assert available() == 5000 - 4000 + 320  # the group above has the limit; its cache of files gives way
    written(groups, **{"a__b__memoryDOTmax": "1000"})
    assert available() == 1000 - 900 + 320
    written(groups, **{"a__b__memoryDOTcurrent": "9000"})
    assert available() == 0


def test_control_groups_of_version_1_are_read_too(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    written(proc, meminfo="MemAvailable: 8000 kB\n", self__cgroup="9:name=systemd:/\n4:memory:/job\n0::/\n")
    v1 = {"memoryDOTlimit_in_bytes": "6000", "memoryDOTusage_in_bytes": "5000"}
    stat = {"memoryDOTstat": "inactive_file 1\nactive_file 1\ntotal_inactive_file 70\ntotal_active_file 5\n"}
    written(groups / "memory" / "job", **v1, **stat)
    assert room.memory("cpu", proc, groups) == 1075
    written(groups / "memory", **v1 | {"memoryDOTlimit_in_bytes": "5500"}, **stat)
    assert room.memory("cpu", proc, groups) == 575


def test_disk_is_asked_of_a_folder_that_is_not_there_yet(tmp_path):
    assert room.disk(tmp_path / "not" / "yet") == pytest.approx(room.disk(tmp_path), rel=0.1)
    assert room.gib(14_483_464_192) == "13.49 GiB" and room.gib(30_000_000) == "28.6 MiB"


# --- measured --------------------------------------------------------------------------------------------------------------


def middle(folder, format):
    """Large enough that the weights outweigh what else a process allocates: 0.3 GB."""
    config = replace(mock.narrow(mock.CONFIGS["v0.1"], 4), n_layers=6)
    mock.write(folder, config, format=format, progress=False)


@LINUX
@pytest.mark.parametrize("format", ["hf", "native", "pth"])
def test_memory_grows_by_the_weights_and_no_more(tmp_path, format):
    middle(tmp_path, format)
    found = checkpoint.inspect(tmp_path)
    assert found.nbytes > checkpoint.LARGE
    seen = load.in_a_fresh_process("minimistral", tmp_path)
    # not less: they were all read; a system short of memory may have taken some of the mapped pages back meanwhile
    assert 0.9 * found.nbytes < seen["grown"] < 1.03 * found.nbytes + 8e6
    assert len(seen["tokens"]) == 10


@LINUX
def test_the_measurement_runs_at_small_size_and_keeps_what_it_saw(capsys):
    record = load.run(layers=2, rounds=2, config=small())
    printed = capsys.readouterr().out
    assert set(record["seconds"]) == {"read", "minimistral", "transformers"}
    assert all(len(taken) == 2 for taken in record["seconds"].values())
    assert record["setting"]["files"] == 3 and record["setting"]["layers"] == 2
    assert [len(record["memory"][name]["tokens"]) for name in ("minimistral", "transformers")] == [10, 10]
    assert load.table(record) in printed and "x a bare read" in printed and "x the weights" in printed


@pytest.mark.full
def test_the_full_size(tmp_path):
    """The 7B v0.1's layout in its 14,483,464,192 bytes: loaded, every number read, ten tokens, against transformers."""
    folder = tmp_path / "full"
    mock.write(folder, mock.CONFIGS["v0.1"])
    assert checkpoint.inspect(folder).nbytes == BYTES["v0.1"]
    record = load.run(folder, rounds=0)
    ours, theirs = record["memory"]["minimistral"], record["memory"]["transformers"]
    assert ours["grown"] <= 1.03 * BYTES["v0.1"] and ours["grown"] <= 1.001 * theirs["grown"]
    assert len(ours["tokens"]) == 10
    if out := os.environ.get("MINIMISTRAL_RECORD"):
        Path(out).write_text(json.dumps(record, indent=1) + "\n")
