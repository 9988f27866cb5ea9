"""The doctor, on made-up machines and folders: the arithmetic against the real thing, and every verdict."""

import html
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import random_ids, small_config, small_model

import minimistral as mm
from minimistral import doctor, quantize
from minimistral.bench.measure import peak_bytes
from minimistral.cli import main
from minimistral.counting import VERSIONS

GIB = 2**30
V1, V3 = VERSIONS["v0.1"], VERSIONS["v0.3"]


def gpu(gib, capability=(8, 0)):
    return doctor.GPU("Test GPU", gib * GIB, gib * GIB, capability, capability >= (8, 0))


def machine(memory=32, **changes):
    return doctor.Machine("Test OS", "3.12", "2.11", 8, memory * GIB, 100 * GIB, **changes)


def verdicts(config, there, **options):
    return {f"{fit.place} {fit.kind}": fit.ok for fit in doctor.fits(config, there, **options)}


# --- does it fit? ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("there", "expected"), [
    (machine(7), {"CPU bf16": False, "CPU int8": False, "CPU int4": True}),
    (machine(16), {"CPU bf16": True, "CPU int8": True, "CPU int4": True}),
    (machine(4), {"CPU bf16": False, "CPU int8": False, "CPU int4": False}),
    (machine(4, gpu=gpu(80)), {"GPU bf16": True, "GPU int8": True, "GPU int4": True,
                               "CPU bf16": False, "CPU int8": False, "CPU int4": False}),
    (machine(4, gpu=gpu(8)), {"GPU bf16": False, "GPU int8": False, "GPU int4": True,
                              "CPU bf16": False, "CPU int8": False, "CPU int4": False}),
    (machine(4, gpu=gpu(12)), {"GPU bf16": False, "GPU int8": True, "GPU int4": True,
                               "CPU bf16": False, "CPU int8": False, "CPU int4": False}),
    (machine(4, gpu=gpu(15, (7, 5))), {"GPU bf16": False, "GPU int8": True, "GPU int4": False,
                                       "CPU bf16": False, "CPU int8": False, "CPU int4": False}),
    (machine(16, torchao=False), {"CPU bf16": True, "CPU int8": False, "CPU int4": False}),
])  # fmt: skip
def test_the_7b_on_machines_of_every_size(there, expected):
    assert verdicts(V1, there) == expected


def test_the_arithmetic_of_the_7b():
    need = doctor.need(V1)
    assert need.weights == 14_483_464_192 and need.cache == GIB // 2
    assert need.total == need.weights + need.cache + need.workspace
    assert doctor.need(V1, "int8").weights == quantize.planned_bytes(V1, 8)
    assert [doctor.cache_bytes(V1, n) // 2**20 for n in (1, 4096, 32_768)] == [512, 512, 512]  # the ring is there from the start
    assert [doctor.cache_bytes(V3, n) // 2**20 for n in (4096, 16_384, 32_768)] == [512, 2048, 4096]
    exactly = doctor.need(V1)
    just = doctor.Fit("CPU", "bf16", exactly, exactly.total)
    assert just.ok and not replace(just, have=exactly.total - 1).ok


def test_more_tokens_can_be_too_many_without_a_window():
    there = machine(4, gpu=gpu(24))
    assert verdicts(V3, there)["GPU bf16"] and not verdicts(V3, there, tokens=65_536)["GPU bf16"]
    assert verdicts(V1, there, tokens=65_536)["GPU bf16"]
    assert not verdicts(V1, there, tokens=65_536, chunk=16_384)["GPU bf16"]


@pytest.mark.parametrize("window", [7, 64, None])
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 130, 500])
def test_the_cache_is_as_large_as_the_real_one(window, tokens):
    config = small_config(window)
    cache = mm.RollingBuffer(config, dtype=torch.bfloat16)
    model = small_model(window).bfloat16()
    for start in range(0, tokens, 40):
        model(random_ids(1, min(40, tokens - start)), cache=cache)
    assert cache.n_bytes() == doctor.cache_bytes(config, tokens)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("chunk", [128, 1])
@pytest.mark.parametrize("window", [256, None])
def test_the_workspace_covers_what_is_measured_and_not_much_more(window, chunk, kind):
    """A chunk after others, in a model with the 7B's proportions at a sixteenth of its width."""
    config = replace(V1, dim=256, n_layers=2, n_heads=16, n_kv_heads=4, head_dim=16, hidden_dim=896, vocab_size=2048,
                     sliding_window=window)  # fmt: skip
    model = mm.Mistral(config).requires_grad_(False).bfloat16()
    if kind != "bf16":
        quantize.quantize(model, doctor.KINDS[kind])
    tokens = 1024
    ids = random_ids(1, tokens, vocab_size=2048)
    cache = mm.RollingBuffer(config, dtype=torch.bfloat16)
    before = tokens - chunk if window else 512  # without a window: the chunk with which the buffer of 512 doubles
    for part in ids[:, :before].split(128, dim=1):
        model(part, cache=cache, last_only=True)
    held, seen = cache.n_bytes(), tokens if window else before + chunk
    measured = peak_bytes(lambda: model(ids[:, before : before + chunk], cache=cache, last_only=True))
    bound = doctor.workspace(config, kind, seen, chunk) + doctor.cache_bytes(config, seen) - held  # the larger cache is new, too
    print(f"measured {measured / 2**20:.1f} MiB, bound {bound / 2**20:.1f} MiB")
    assert measured <= bound
    assert bound < 4 * measured or chunk == 1


@pytest.mark.gpu
@torch.no_grad()
def test_the_workspace_covers_what_is_measured_on_a_gpu():
    config = replace(V1, n_layers=2)
    model = mm.Mistral(config).requires_grad_(False).bfloat16().cuda()
    cache = mm.RollingBuffer(config, device="cuda", dtype=torch.bfloat16)
    ids = random_ids(1, 8192, vocab_size=32_000).cuda()
    for part in ids[:, :-512].split(512, dim=1):
        model(part, cache=cache, last_only=True)
    measured = peak_bytes(lambda: model(ids[:, -512:], cache=cache, last_only=True), "cuda")
    bound = doctor.workspace(config, "bf16", 8192, 512, "GPU") - doctor.CUDA_ITSELF
    print(f"measured {measured / 2**20:.1f} MiB, bound {bound / 2**20:.1f} MiB")
    assert measured <= bound


# --- folders -----------------------------------------------------------------------------------------------------------


def test_a_whole_folder(tmp_path):
    model = small_model(5).bfloat16()
    mm.save(model, tmp_path)
    report = doctor.examine(tmp_path, machine=machine())
    assert report.folder.config == model.config and report.missing == () and report.model == "another model"
    assert f"yes: {2 * model.n_parameters():,} bytes of weights in 1 file, native format" in str(report)
    assert "2 layers, 6 heads on 2, window 5" in str(report)
    mm.checkpoint.export(model, tmp_path / "hf", shards=2)
    assert "in 2 files, hf format" in str(doctor.examine(tmp_path / "hf", machine=machine()))


def test_a_folder_that_is_not_whole_says_what_the_loader_would(tmp_path):
    mm.save(small_model(5), tmp_path)
    weights = tmp_path / "consolidated.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(mm.CheckpointError) as loading:
        mm.load(tmp_path)
    report = doctor.examine(tmp_path, machine=machine())
    assert report.missing == (str(loading.value),) and f"no: {loading.value}" in str(report)
    assert report.folder.config == small_config(5)
    for broken in (tmp_path / "none", tmp_path / "params.json"):
        assert doctor.examine(broken, machine=machine()).folder.config is None
        assert main(["doctor", str(broken)]) == 1


def test_what_the_loader_would_warn_of_is_a_note(tmp_path):
    mm.save(small_model(5), tmp_path)
    params = json.loads((tmp_path / "params.json").read_text())
    del params["rope_theta"]
    (tmp_path / "params.json").write_text(json.dumps(params | {"dropout": 0}))
    said = str(doctor.examine(tmp_path, machine=machine()))
    assert said.count("has no rope_theta: took 10000") == 1 and said.count("ignored unknown keys dropout") == 1


def test_a_7b_folder_is_known_by_its_config_and_may_fit_nowhere(tmp_path, monkeypatch):
    (tmp_path / "params.json").write_text(json.dumps(V3.to_params()))
    (tmp_path / "consolidated.safetensors").write_bytes(b"")
    report = doctor.examine(tmp_path, tokens=16_384, machine=machine())
    assert report.model == "7B v0.3" and "7B v0.3, 16,384 tokens in chunks of 512" in str(report)
    assert report.fits[0].need.cache == 2 * GIB and len(report.missing) == 1
    monkeypatch.setattr(doctor, "read_folder", lambda path: doctor.Folder(Path(path), V3))
    report = doctor.examine(tmp_path, machine=machine(2))
    assert report.missing == ("memory: 7B v0.3 fits neither the GPU nor the CPU, in no dtype",)


# --- the report ----------------------------------------------------------------------------------------------------------


def test_the_report_as_text_and_as_a_table():
    there = machine(16, gpu=gpu(15, (7, 5)))
    report = doctor.examine(machine=there)
    said = str(report)
    assert repr(report) == said and report.machine == there and report.folder is None
    for part in ("Test GPU, 15.00 GiB of 15.00 GiB free, no bfloat16: float16 is used", "16.00 GiB available", "100.00 GiB free",
                 "7B v0.1, 4,096 tokens in chunks of 512: does it fit?", "needs compute capability 8.0", "Nothing is missing."):
        assert part in said, part
    assert any("GPU int8" in line and "6.87 GiB" in line and "fits," in line for line in said.splitlines())
    assert any("GPU bf16" in line and "13.49 GiB" in line and "does not fit:" in line for line in said.splitlines())
    page = html.unescape(report._repr_html_())
    for fit in report.fits:
        assert f">{fit.place} {fit.kind}<" in page and f">{fit.verdict}<" in page
    assert "<script" not in doctor.examine(machine=replace(there, system="<script>"))._repr_html_()


@pytest.mark.parametrize(("there", "chapter", "said"), [
    (machine(32), "chapter 10", "the 7B in bf16 on the CPU, slowly"),
    (machine(7), "chapter 10", "the 7B in int4 on the CPU, slowly"),
    (machine(8, gpu=gpu(24)), "chapter 10", "the 7B in bf16 on the GPU"),
    (machine(2), "chapter 10", "a layer at a time"),
    (machine(2), "chapters 00", "run here"),
    (machine(2), "chapter 11", "measured on your CPU"),
    (machine(2, gpu=gpu(8)), "chapter 11", "measured on your GPU"),
    (machine(2, lacks=("ipywidgets",)), "chapters 00", "lacks ipywidgets"),
])  # fmt: skip
def test_what_of_the_course_runs(there, chapter, said):
    line = next(line for line in str(doctor.examine(machine=there)).splitlines() if line.strip().startswith(chapter))
    assert said in line


def test_a_lacking_package_is_named_with_its_remedy():
    report = doctor.examine(machine=machine(lacks=("mistral_common", "tqdm")))
    assert report.missing == ("the package mistral_common: pip install mistral-common", "the package tqdm: pip install tqdm")
    assert str(report).endswith("Missing: the package tqdm: pip install tqdm")


@pytest.mark.parametrize(("windows", "said"), [
    ((5, None, 5), "3 layers, 6 heads on 2, window 5 in 2 layers, no window in 1"),
    ((None, 1200), "2 layers, 6 heads on 2, no window in 1 layer, window 1,200 in 1"),
])  # fmt: skip
def test_a_folder_whose_layers_have_windows_of_their_own(tmp_path, windows, said):
    mm.save(small_model(windows, n_layers=len(windows)), tmp_path)
    report = doctor.examine(tmp_path, machine=machine())
    assert said in str(report) and said in report._repr_html_() and report.missing == ()
    assert any(fit.ok for fit in report.fits)


@pytest.mark.parametrize("options", [dict(tokens=0), dict(tokens=1.5), dict(tokens=True), dict(chunk=-1), dict(chunk="8")])
def test_wrong_numbers_are_refused(options):
    with pytest.raises(ValueError, match="expected a whole number of at least 1"):
        doctor.examine(machine=machine(), **options)
    with pytest.raises(ValueError, match="kind is 'fp8'"):
        doctor.need(V1, "fp8")


# --- this machine --------------------------------------------------------------------------------------------------------


def test_this_machine_and_the_command(tmp_path, capsys):
    there = doctor.look(tmp_path / "not" / "there" / "yet")
    assert there.memory > 2**28 and there.disk > 0 and there.threads == torch.get_num_threads() and there.lacks == ()
    assert all(importlib.util.find_spec(name) for name in doctor.PACKAGES)
    assert main(["doctor"]) == 0
    assert "Nothing is missing." in capsys.readouterr().out
    mm.save(small_model(5), tmp_path)
    assert main(["doctor", str(tmp_path), "--tokens", "100", "--chunk-size", "7"]) == 0
    assert "100 tokens in chunks of 7" in capsys.readouterr().out
    assert main(["doctor", "--tokens", "0"]) == 2
    (tmp_path / "params.json").unlink()
    assert main(["doctor", str(tmp_path)]) == 1
    assert "Missing: " in capsys.readouterr().out


def test_it_reads_no_weights_and_changes_nothing(tmp_path):
    mm.save(small_model(5), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    program = (
        "import sys; from minimistral import tensorfiles, doctor\n"
        "def read(*args): raise AssertionError('a weight was read')\n"
        "tensorfiles.read = read\n"
        f"print(doctor.examine({str(tmp_path)!r}).missing, 'matplotlib' in sys.modules, 'torchao' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "() False False", done.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
