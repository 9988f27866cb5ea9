"""Weights in 8 and 4 bits: against rounding by hand, against the whole model beyond its window, and byte for byte as computed."""

import copy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers import largest_difference, random_ids, small_config, small_model

import minimistral as mm
from minimistral import checkpoint, quantize
from minimistral.counting import VERSIONS

GIB = 2**30


def kl(model, other, tokens):
    """Nats a token that the other's predictions lose against the model's, each position's: (T,)."""
    p, q = model(tokens).log_softmax(-1), other(tokens).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)[0]


@pytest.fixture(scope="module")
def tiny():
    return mm.load_tiny()


@pytest.fixture(scope="module")
def story(tiny):
    """300 tokens, as the tiny model writes: more than four of its windows."""
    model, tokenizer = tiny
    ids = tokenizer.encode("Once upon a time", bos=True)
    new = mm.generate(model, [ids], 300 - len(ids), temperature=1.0, seed=1, eos_id=None).tokens[0]
    return torch.tensor([ids + new])


@pytest.fixture(scope="module", params=[8, 4])
def rounded(request, tiny):
    return request.param, quantize.quantize(copy.deepcopy(tiny[0]), request.param)


def small(**changes):
    """Rows that 4 bits can group, no two sizes equal, two layers, three queries on a key."""
    return small_model(5, **(dict(dim=96, n_heads=6, n_kv_heads=2, head_dim=16, hidden_dim=128, vocab_size=64) | changes))


# --- the tiny model ----------------------------------------------------------------------------------------------------

#: nats a token, mean and largest over the story; measured: 0.0002 and 0.006 (8 bits), 0.04 and 0.8 (4 bits)
BOUNDS = {8: (0.0005, 0.02), 4: (0.1, 2.0)}


@torch.no_grad()
def test_the_predictions_stay_close_beyond_the_window(tiny, story, rounded):
    bits, other = rounded
    assert story.shape[1] > 4 * tiny[0].config.sliding_window
    loss = kl(tiny[0], other, story)
    mean, most = BOUNDS[bits]
    print(f"{bits} bits: KL {loss.mean():.5f} nats a token, at most {loss.max():.3f}")
    assert 0 < loss.mean() < mean and loss.max() < most
    if bits == 4:
        assert loss.mean() > 10 * BOUNDS[8][0]  # four bits cost more, and are four bits


def test_it_takes_the_bytes_that_were_planned(tiny, rounded):
    bits, other = rounded
    assert quantize.n_bytes(other) == quantize.planned_bytes(tiny[0].config, bits, wide=4)
    assert quantize.n_bytes(tiny[0]) == quantize.planned_bytes(tiny[0].config, 16, wide=4) == 4 * tiny[0].n_parameters()


@torch.no_grad()
def test_chunk_by_chunk_is_still_all_at_once_and_it_generates(tiny, story, rounded):
    _, other = rounded
    whole = other(story)
    cache = mm.RollingBuffer(other.config)
    parts = torch.cat([other(part, cache=cache) for part in story.split([70, 1, 1, 64, 164], dim=1)], dim=1)
    assert largest_difference(parts, whole) < 1e-3
    prompt = story[0, :80].tolist()
    made = mm.generate(other, [prompt, prompt[:7]], max_new_tokens=70, seed=3, temperature=0.7, chunk_size=33, eos_id=None)
    assert [len(ids) for ids in made.tokens] == [70, 70]
    text = "".join(mm.stream(other, tiny[1], "Once upon a time", max_new_tokens=12))
    assert len(text) > 20


def test_everything_but_the_linear_layers_is_as_it_was(tiny, rounded):
    _, other = rounded
    for (name, before), (_, after) in zip(tiny[0].named_parameters(), other.named_parameters(), strict=True):
        kept = before.ndim == 1 or name == "tok_embeddings.weight"
        assert quantize.is_quantized(after) != kept, name
        assert not after.requires_grad and after.dtype == before.dtype and after.shape == before.shape
        assert not kept or torch.equal(before, after)


# --- against rounding by hand --------------------------------------------------------------------------------------------


def by_hand(row, bits):
    """One row of float weights as it is after rounding, number by number."""
    row = row.tolist()
    if bits == 8:  # the largest magnitude becomes 127.5 steps
        step = max(map(abs, row)) / 127.5
        return [max(-128, min(127, round(x / step))) * step for x in row]
    size = 128 if len(row) % 128 == 0 else 64 if len(row) % 64 == 0 else 32
    out = []
    for start in range(0, len(row), size):  # sixteen levels from a group's least to its largest number
        group = row[start : start + size]
        low, step = min(group), (max(group) - min(group)) / 15
        out += [low + max(0, min(15, round((x - low) / step))) * step for x in group]
    return out


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (48, 96), (32, 192), (16, 256)])
def test_each_weight_is_rounded_as_by_hand(bits, rows, columns):
    """Multiplying by the identity reads the weights back out of their packing."""
    layer = torch.nn.Linear(columns, rows, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)))
    expected = torch.tensor([by_hand(row, bits) for row in layer.weight])
    step = 8 / (255 if bits == 8 else 15)
    assert largest_difference(expected, layer.weight) > step / 40  # it does round
    wide = layer.weight.clone()
    quantize._round(layer, bits)
    wrong = (layer(torch.eye(columns)).T - expected).abs()
    if bits == 8:  # a row's largest number lies in the middle between two steps: either will do
        largest = wide.abs() == wide.abs().amax(1, keepdim=True)
        assert wrong[largest].max() < 2 * step
        wrong[largest] = 0
    assert wrong.max() < 1e-5


# --- memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [8, 4])
def test_planned_bytes_in_each_dtype(bits, dtype):
    model = quantize.quantize(small().to(dtype), bits)
    assert quantize.n_bytes(model) == quantize.planned_bytes(model.config, bits, dtype.itemsize)
    assert model.output.weight.dtype == dtype
    assert len(mm.generate(model, [[1, 2, 3]], max_new_tokens=9, eos_id=None).tokens[0]) == 9


def test_the_7b_in_numbers():
    assert quantize.planned_bytes(VERSIONS["v0.1"]) == 14_483_464_192
    assert quantize.planned_bytes(VERSIONS["v0.3"]) == 14_496_047_104
    rows = 32 * (4096 + 1024 + 1024 + 4096 + 14336 + 4096 + 14336) + 32000
    linear = 7_241_732_096 - 32000 * 4096 - 65 * 4096
    rest = 2 * (32000 * 4096 + 65 * 4096)
    assert quantize.planned_bytes(VERSIONS["v0.1"], 8) == linear + 5 * rows + rest
    assert quantize.planned_bytes(VERSIONS["v0.1"], 4) == linear // 2 + linear // 128 * 4 + rest
    said = quantize.__doc__
    for bits in (16, 8, 4):
        assert f"{quantize.planned_bytes(VERSIONS['v0.1'], bits) / GIB:.2f} GiB" in said


# --- loading ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["native", "hf"])
@pytest.mark.parametrize("bits", [8, 4])
@torch.no_grad()
def test_loading_rounds_as_quantize_does(tmp_path, bits, format):
    model = small().bfloat16()
    mm.save(model, tmp_path / "a") if format == "native" else checkpoint.export(model, tmp_path / "a", shards=2)
    loaded, tokenizer = quantize.load(tmp_path / "a", bits, device="cpu")
    tokens = random_ids(2, 17, vocab_size=64)
    assert tokenizer is None and not loaded.training
    assert torch.equal(loaded(tokens), quantize.quantize(model, bits)(tokens))
    assert quantize.n_bytes(loaded) == quantize.planned_bytes(loaded.config, bits)


def test_loading_never_holds_the_whole(tmp_path, monkeypatch):
    """Each matrix is rounded before the next one is read."""
    mm.save(small(), tmp_path)
    done, read, rounded = [], checkpoint.read_tensor, quantize._round
    monkeypatch.setattr(checkpoint, "read_tensor", lambda name, *args: done.append(name) or read(name, *args))
    monkeypatch.setattr(quantize, "_round", lambda module, bits: done.append("rounded") or rounded(module, bits))
    quantize.load(tmp_path, 8, device="cpu")
    matrices = [n for n, name in enumerate(done) if name.endswith("weight") and "norm" not in name][1:]
    assert len(matrices) == 15 and all(done[n + 1] == "rounded" for n in matrices)


def test_loading_says_when_there_is_no_room_and_names_nan(tmp_path, monkeypatch):
    model = small()
    model.layers[1].attention.wk.weight[3, 2] = float("nan")
    mm.save(model, tmp_path)
    with pytest.warns(UserWarning, match=r"NaN or infinity is in layers.1.attention.wk.weight"):
        quantize.load(tmp_path, 8, device="cpu")
    needed = quantize.planned_bytes(model.config, 8, 4)
    monkeypatch.setattr(checkpoint.room, "memory", lambda device: needed - 1)
    with pytest.raises(mm.CheckpointError, match=r"In 8 bits .* need 0\.\d MiB of memory, 0\.\d MiB are available on cpu"):
        quantize.load(tmp_path, 8, device="cpu")
    with pytest.raises(mm.CheckpointError, match="does not exist"):
        quantize.load(tmp_path / "none", 8, device="cpu")


# --- refusals ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [16, 2, "8", True, None, 8.5])
def test_other_bits_are_refused(bits):
    model = small()
    with pytest.raises(ValueError, match="expected 8 or 4"):
        quantize.quantize(model, bits)
    assert not quantize.is_quantized(model.output.weight)


@pytest.mark.parametrize(("changes", "said"), [
    (dict(dim=72), "wq has 96 rows of 72; 4 bits need"),
    (dict(vocab_size=40), "output has 40 rows of 96; 4 bits need"),
])  # fmt: skip
def test_a_layer_that_4_bits_cannot_hold_is_named_and_nothing_is_changed(changes, said):
    model = small(**changes)
    with pytest.raises(ValueError, match=said):
        quantize.quantize(model, 4)
    assert not any(map(quantize.is_quantized, model.parameters()))
    quantize.quantize(model, 8)  # 8 bits can
    with pytest.raises(ValueError, match="quantised already"):
        quantize.quantize(model, 8)


def test_devices_that_cannot(monkeypatch):
    with pytest.raises(ValueError, match="4 bits run on a CPU or on CUDA, and the device is mps"):
        quantize.check(4, torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    with pytest.raises(ValueError, match=r"compute capability 8\.0, and this one has 7\.5: take 8 bits"):
        quantize.check(4, torch.device("cuda"))
    quantize.check(8, torch.device("cuda"))
    with pytest.raises(ValueError, match="on CUDA 4 bits need bfloat16"):
        quantize._check_layers(small(), 4, torch.device("cuda"))


def test_without_torchao_it_says_what_to_install_and_nothing_else_needs_it():
    program = (
        "import sys; sys.modules['torchao'] = None\n"
        "import minimistral as mm\n"
        "from minimistral import doctor, quantize\n"
        "model, _ = mm.load_tiny()\n"
        "print(quantize.planned_bytes(model.config, 4))\n"
        "try: quantize.quantize(model, 8)\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "8 and 4 bits need the package torchao: pip install 'minimistral[quantize]'" in done.stdout


def test_torchao_is_imported_without_a_word():
    program = "import minimistral as mm; from minimistral import quantize; quantize.quantize(mm.load_tiny()[0], 8)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- on a GPU ----------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 4])
def test_on_a_gpu_as_on_the_cpu(tiny, story, bits):
    model = copy.deepcopy(tiny[0]).bfloat16()
    here = quantize.quantize(copy.deepcopy(model), bits)
    there = quantize.quantize(model, bits, device="cuda")
    assert there.output.weight.device.type == "cuda"
    loss = kl(tiny[0], lambda tokens: there(tokens.cuda()).cpu(), story)
    assert 0 < loss.mean() < 2 * BOUNDS[bits][0] + 0.001  # and what bfloat16 itself costs
    assert kl(here, lambda tokens: there(tokens.cuda()).cpu(), story).mean() < 0.01
    assert len(mm.generate(there, [[1, 5, 9]], max_new_tokens=80, eos_id=None).tokens[0]) == 80


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [8, 4])
def test_gpu_memory_is_as_planned_and_the_16_bit_whole_never_there(tmp_path, bits):
    """Rows of a multiple of 1024, as the 7B's: the packing of 4 bits fills up others."""
    config = replace(small_config(5), dim=2048, n_layers=6, n_heads=16, n_kv_heads=4, head_dim=128, hidden_dim=4096)
    config = replace(config, vocab_size=4096)
    mm.save(mm.Mistral(config).bfloat16(), tmp_path)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model, _ = quantize.load(tmp_path, bits, device="cuda")
    planned = quantize.planned_bytes(config, bits)
    assert quantize.n_bytes(model) == planned
    assert torch.cuda.memory_allocated() - before < planned * 1.02
    largest = config.hidden_dim * config.dim
    assert torch.cuda.max_memory_allocated() - before < planned + 24 * largest < 2 * model.n_parameters()
