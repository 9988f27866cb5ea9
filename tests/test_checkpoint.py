"""Model folders: against transformers' own Mistral, and every way a folder can be broken."""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from helpers import largest_difference, random_ids, small_model, spread
from safetensors.torch import load_file, save_file
from transformers import MistralConfig as HFConfig
from transformers import MistralForCausalLM

import minimistral as mm
from minimistral import CheckpointError, checkpoint

HF_SIZES = dict(hidden_size=36, intermediate_size=28, num_hidden_layers=3, head_dim=8, vocab_size=64, rms_norm_eps=1e-4)


# --- against transformers --------------------------------------------------------------------------------------------


def hf_model(folder, H, Hkv, W, seed=0):
    """A random Mistral of transformers, saved in several shards. Head sizes do not add up to the width."""
    config = HFConfig(**HF_SIZES, num_attention_heads=H, num_key_value_heads=Hkv, sliding_window=W,
                      rope_parameters=dict(rope_theta=500.0), attn_implementation="eager")  # fmt: skip
    model = spread(MistralForCausalLM(config), seed).eval()
    model.save_pretrained(folder, max_shard_size="30KB")
    assert len(list(Path(folder).glob("model-*-of-*.safetensors"))) > 2
    return model


@pytest.fixture(scope="module", params=[2, 5, 33, None], ids="W={}".format)
def W(request):
    return request.param


@pytest.fixture(scope="module", params=[(3, 3), (6, 2), (4, 1)], ids=lambda p: f"heads={p[0]}/{p[1]}")
def pair(request, W, tmp_path_factory):
    """transformers' model, ours loaded from its files, and the window."""
    folder = tmp_path_factory.mktemp("hf")
    theirs = hf_model(folder, *request.param, W)
    ours, tokenizer = mm.load(folder, device="cpu")
    assert tokenizer is None
    return theirs, ours, W


@torch.no_grad()
def test_logits_equal_transformers(pair):
    theirs, ours, W = pair
    tokens = random_ids(2, 71, vocab_size=64)  # more than twice the largest window
    expected = theirs(tokens, use_cache=False).logits
    assert expected.abs().max() > 1
    assert largest_difference(ours(tokens), expected) < 1e-4
    for chunk in (1, 3, (W or 9), (W or 9) + 4):
        cache = mm.RollingBuffer(ours.config, batch_size=2)
        got = torch.cat([ours(part, cache=cache) for part in tokens.split(chunk, dim=1)], dim=1)
        assert largest_difference(got, expected) < 1e-4, chunk


@torch.no_grad()
def test_greedy_ids_equal_transformers_recomputed_without_a_cache(pair):
    theirs, ours, W = pair
    size = W or 9
    prompts = [random_ids(1, n, vocab_size=64, seed=n)[0].tolist() for n in (max(1, size - 2), 2 * size + 3)]
    expected = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(8):
            best = theirs(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
            assert best.values[0] - best.values[1] > 1e-3, "a tie would prove nothing: choose another seed"
            ids.append(best.indices[0].item())
        expected.append(ids[len(prompt) :])
    for chunk_size in (1, 3, size, size + 4, None):
        assert mm.generate(ours, prompts, 8, chunk_size=chunk_size, eos_id=None).tokens == expected, chunk_size


def test_rows_are_permuted_head_by_head():
    """Two heads of four: pairs (0, 1), (2, 3) lie in an HF file as halves, first of each pair, then second."""
    rows = torch.arange(8)[:, None]
    assert checkpoint.to_half_split(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert checkpoint.to_interleaved(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    wide = torch.randn(3 * 10, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(checkpoint.to_interleaved(checkpoint.to_half_split(wide, 3), 3), wide)
    assert checkpoint.to_half_split(wide, 3)[:10, 0].tolist() == wide[[0, 2, 4, 6, 8, 1, 3, 5, 7, 9], 0].tolist()


@torch.no_grad()
def test_a_single_file_and_a_bfloat16_file_load_too(tmp_path):
    hf_model(tmp_path / "shards", 6, 2, 5).bfloat16().save_pretrained(tmp_path / "one")
    assert (tmp_path / "one" / "model.safetensors").is_file()
    tokens = random_ids(1, 13, vocab_size=64)
    model, _ = mm.load(tmp_path / "one", device="cpu")
    assert model.output.weight.dtype == torch.bfloat16
    model, _ = mm.load(tmp_path / "one", device="cpu", dtype=torch.float32)
    theirs = MistralForCausalLM.from_pretrained(tmp_path / "one", dtype=torch.float32, attn_implementation="eager")
    assert largest_difference(model(tokens), theirs(tokens).logits) < 1e-4


# --- saving and loading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saving_and_loading_changes_nothing(tmp_path, dtype):
    model = small_model(5, norm_eps=3e-6).to(dtype)
    folder = tmp_path / "new" / "folder"
    mm.save(model, folder)
    again, tokenizer = mm.load(folder, device="cpu")
    assert {path.name for path in folder.iterdir()} == {"consolidated.safetensors", "params.json"}
    assert again.config == model.config and tokenizer is None
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    for (name, ours), (other, theirs) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other and ours.dtype == theirs.dtype == dtype and torch.equal(ours, theirs)


def test_a_tokenizer_is_saved_beside_the_model(tmp_path):
    tokenizer = mm.Tokenizer.from_version("v1")
    mm.save(small_model(vocab_size=32000), tmp_path, tokenizer)
    _, again = mm.load(tmp_path, device="cpu")
    assert again.version == "v1" and again.encode("Hello world") == [22557, 1526]


def test_a_small_model_does_not_depend_on_its_file(tmp_path):
    mm.save(small_model(5), tmp_path)
    model, _ = mm.load(tmp_path, device="cpu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = tmp_path / "consolidated.safetensors"
    with open(weights, "r+b") as stream:  # in place, as a careless tool would
        stream.write(b"\xff" * weights.stat().st_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_large_model_is_mapped_and_outlives_a_save_over_its_folder_and_writing_to_it_leaves_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "LARGE", 0)
    mm.save(small_model(5), tmp_path)
    contents = (tmp_path / "consolidated.safetensors").read_bytes()
    model, _ = mm.load(tmp_path, device="cpu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.output.weight.data.mul_(2)
    assert (tmp_path / "consolidated.safetensors").read_bytes() == contents
    mm.save(small_model(5, seed=1), tmp_path)
    before["output.weight"] *= 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn])
def test_what_load_would_refuse_is_not_written(tmp_path, dtype):
    for write in (mm.save, checkpoint.export):
        with pytest.raises(ValueError, match=f"is {dtype}, which load.. does not read"):
            write(small_model(5).to(dtype), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def no_space(*_, **__):
    raise OSError(28, "No space left on device")


def half_written(self, data):
    with open(self, "wb") as stream:
        stream.write(data[: len(data) // 2])
    no_space()


@pytest.mark.parametrize("owner, name, failure", [(os, "replace", no_space), (Path, "write_bytes", half_written)])
def test_a_failed_save_leaves_the_old_files_and_no_part(tmp_path, monkeypatch, owner, name, failure):
    mm.save(small_model(5), tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failure)
        with pytest.raises(OSError, match="No space left"):
            mm.save(small_model(7, seed=1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_a_save_that_fails_at_its_second_file_does_not_mix_two_models(tmp_path, monkeypatch):
    """New weights beside an old params.json would be a third model, silently."""
    mm.save(small_model(5), tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_bytes

    def second_fails(self, data):
        (no_space if "params" in self.name else write)(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", second_fails)
        with pytest.raises(OSError, match="No space left"):
            mm.save(small_model(7, seed=1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


# --- broken folders --------------------------------------------------------------------------------------------------


@pytest.fixture
def native(tmp_path):
    mm.save(small_model(5), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def hf(tmp_path):
    hf_model(tmp_path / "model", 6, 2, 5)
    return tmp_path / "model"


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def edit_tensors(file, change):
    """Rewrite a safetensors file after change(dict of tensors)."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_header(file, change):
    """Rewrite only the header."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])


def refused(folder, *words, **options):
    """Loading raises CheckpointError and its message holds all these words."""
    with pytest.raises(CheckpointError) as error:
        mm.load(folder, device="cpu", **options)
    for word in words:
        assert str(word) in str(error.value), str(error.value)


def test_no_folder_a_file_an_empty_folder(native, tmp_path):
    refused(tmp_path / "absent", tmp_path / "absent", "does not exist", "give the folder")
    refused(native / "params.json", native / "params.json", "is a file", "give the folder it lies in")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no model", "params.json with consolidated.safetensors", "config.json", "nothing")


@pytest.mark.parametrize("name", ["params.json", "config.json"])
def test_a_config_without_weights(tmp_path, name):
    (tmp_path / name).write_text("{}")
    refused(tmp_path, "holds no model", "consolidated.safetensors", f"found {name}")


def test_weights_without_a_config(native):
    (native / "params.json").unlink()
    refused(native, "holds no model", "params.json", "found consolidated.safetensors")


def test_both_formats_need_a_choice_and_give_the_same_logits(hf):
    model, _ = mm.load(hf, device="cpu")
    mm.save(model, hf)
    refused(hf, "holds both formats", "format='native'", "format='hf'")
    tokens = random_ids(1, 13, vocab_size=64)
    one, two = (mm.load(hf, device="cpu", format=format)[0](tokens) for format in ("native", "hf"))
    assert torch.equal(one, two)


def test_a_format_that_is_not_there_or_not_known(native):
    refused(native, "holds no model", "expected config.json", "found consolidated.safetensors, params", format="hf")
    refused(native, "format is 'HF'", "'native', 'hf' or None", format="HF")


def test_a_missing_shard_is_named(hf):
    gone = shards(hf)[1]
    gone.unlink()
    refused(hf, gone.name, "model.safetensors.index.json", "download it again")


def test_shards_without_an_index(hf):
    (hf / "model.safetensors.index.json").unlink()
    refused(hf, hf, "model.safetensors.index.json")


@pytest.mark.parametrize("contents", ["", "{", "[]", "5", "{}", '{"weight_map": []}', '{"weight_map": {"a": [1]}}'])
def test_a_broken_index_is_named(hf, contents):
    (hf / "model.safetensors.index.json").write_text(contents)
    refused(hf, "model.safetensors.index.json")


def test_native_weights_that_lie_there_twice_are_not_chosen_between(native):
    """Whichever won, somebody would run another model than they think."""
    torch.save(load_file(native / "consolidated.safetensors"), native / "consolidated.00.pth")
    refused(native, native, "consolidated.safetensors and consolidated.00.pth", "move one away")


def test_a_single_file_beside_an_index_of_shards_does_not_win_silently(hf):
    shutil.copy(shards(hf)[0], hf / "model.safetensors")
    refused(hf, hf, "model.safetensors and an model.safetensors.index.json of other files", "move one of the two away")


def test_a_single_file_with_an_index_of_its_own_loads(hf, tmp_path):
    model, _ = mm.load(hf, device="cpu")
    checkpoint.export(model, tmp_path / "one")
    names = load_file(tmp_path / "one" / "model.safetensors")
    (tmp_path / "one" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")})
    )
    again, _ = mm.load(tmp_path / "one", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("kept", [-1, 0, 4, 8, 100])
def test_a_truncated_file_is_named_with_its_size(native, kept):
    file = native / "consolidated.safetensors"
    contents = file.read_bytes()[:kept]
    file.write_bytes(contents)
    refused(native, file, f"{len(contents)} bytes", "download it again")


def test_a_truncated_shard_is_named(hf):
    file = shards(hf)[2]
    file.write_bytes(file.read_bytes()[:-1])
    refused(hf, file, "bytes long and its header promises", "download it again")


def test_a_file_longer_than_it_says(native):
    file = native / "consolidated.safetensors"
    file.write_bytes(file.read_bytes() + b"\x00")
    refused(native, file, "header promises", "download it again")


@pytest.mark.parametrize(
    "contents",
    [
        struct.pack("<Q", 2**60) + b"{}" * 40,  # a header longer than the file
        b"<html>Please log in to download this file</html>" * 10,
        struct.pack("<Q", 10) + b"not json!!" + bytes(50),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"a": 1 }',
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
        bytes(1000),
    ],
)
def test_a_garbage_file_is_named(native, contents):
    file = native / "consolidated.safetensors"
    file.write_bytes(contents)
    refused(native, file, "download it again")


@pytest.mark.parametrize("offsets", [[0, 4], [5], ["a", "b"], None])
def test_a_header_whose_offsets_do_not_fit_is_refused_before_anything_is_read(native, offsets):
    file = native / "consolidated.safetensors"
    edit_header(file, lambda header: header["norm.weight"].update(data_offsets=offsets))
    refused(native, file, "download it again")


def test_a_missing_tensor_is_named(native):
    edit_tensors(native / "consolidated.safetensors", lambda tensors: tensors.pop("layers.1.attention.wk.weight"))
    refused(native, native, "lacks", "layers.1.attention.wk.weight")


def test_a_tensor_missing_from_a_shard_is_named_as_the_file_spells_it(hf):
    name = "model.layers.1.self_attn.k_proj.weight"
    file = next(file for file in shards(hf) if name in load_file(file))
    edit_tensors(file, lambda tensors: tensors.pop(name))
    refused(hf, hf, "lacks", name)


@pytest.mark.parametrize("name", ["lora.weight", "layers.1.attention.wq.bias"])
def test_an_extra_tensor_is_named(native, name):
    edit_tensors(native / "consolidated.safetensors", lambda tensors: tensors.update({name: torch.zeros(3)}))
    refused(native, native, name, "which no model of its config has")


def test_old_files_extra_frequencies_are_skipped(hf):
    before = mm.load(hf, device="cpu")[0].state_dict()
    for layer in range(3):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        edit_tensors(shards(hf)[0], lambda tensors, name=name: tensors.update({name: torch.ones(4)}))
    after = mm.load(hf, device="cpu")[0].state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_misshapen_tensor_is_named_with_both_shapes(native):
    name, file = "layers.0.feed_forward.w1.weight", native / "consolidated.safetensors"
    edit_tensors(file, lambda tensors: tensors.update({name: tensors[name].T.contiguous()}))
    refused(native, name, file, "(20, 24)", "the config asks for (24, 20)")


def test_a_tensor_in_two_shards_is_named_with_both(hf):
    first, second = shards(hf)[:2]
    name, tensor = next(iter(load_file(first).items()))
    edit_tensors(second, lambda tensors: tensors.update({name: tensor}))
    refused(hf, name, first.name, second.name)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_config_with_another_depth_than_the_weights(native, layers):
    edit_json(native / "params.json", n_layers=layers)
    refused(native, native, "have 2 layers", f"n_layers = {layers}")


@pytest.mark.parametrize("layers", [2, 4])
def test_a_config_json_with_another_depth_than_the_weights(hf, layers):
    edit_json(hf / "config.json", num_hidden_layers=layers)
    refused(hf, hf, "have 3 layers", f"n_layers = {layers}")


def test_heads_of_the_wrong_number_are_refused(native):
    edit_json(native / "params.json", n_kv_heads=3)
    refused(native, "layers.0.attention.wk.weight", "(8, 20)", "(12, 20)")


@pytest.mark.parametrize("dtype, spelled", [(torch.int8, "I8"), (torch.float64, "F64"), (torch.uint8, "U8")])
def test_a_dtype_that_is_not_read_is_named(native, dtype, spelled):
    name = "layers.0.attention.wq.weight"
    edit_tensors(native / "consolidated.safetensors", lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    refused(native, name, native / "consolidated.safetensors", f"is {spelled}", "BF16, F16, F32")


def test_a_tokenizer_of_another_vocabulary(native):
    path = native / "tokenizer.model"
    shutil.copy(mm.Tokenizer.from_version("v1").path, path)
    refused(native, path, "32000 ids", "model has 40")


def test_a_broken_tokenizer_or_config_is_named_by_its_own_error(native):
    (native / "tokenizer.model").write_bytes(b"garbage")
    with pytest.raises(mm.TokenizerError, match="tokenizer.model is not a SentencePiece model"):
        mm.load(native, device="cpu")
    (native / "params.json").write_text("{")
    with pytest.raises(mm.ConfigError, match="params.json is not JSON"):
        mm.load(native, device="cpu")


def test_nothing_is_read_from_a_folder_that_is_refused(native, monkeypatch):
    """All checks come first: with reading forbidden the same error is raised."""
    shutil.copy(mm.Tokenizer.from_version("v1").path, native / "tokenizer.model")
    monkeypatch.setattr(checkpoint, "_read", lambda *_: pytest.fail("weights were read"))
    refused(native, "32000 ids")


# --- what an index, a config and the numbers themselves can be wrong about ----------------------------------------------


def reindex(folder, change):
    index = folder / "model.safetensors.index.json"
    contents = json.loads(index.read_text())
    change(contents["weight_map"])
    index.write_text(json.dumps(contents))


def test_an_index_that_names_a_wrong_file(hf):
    first, second = (file.name for file in shards(hf)[:2])
    name = next(iter(load_file(hf / first)))
    reindex(hf, lambda places: places.update({name: second}))
    refused(hf, "index.json", f"says that {name} is in {second}", f"it is in {first}", "download the folder again")
    reindex(hf, lambda places: (places.update({name: first}), places.update(lora=first)))
    refused(hf, "says that lora is in", "no file holds it")


@pytest.mark.parametrize("total", [1, "many", 2.5])
def test_an_index_that_promises_other_bytes(hf, total):
    size = checkpoint.inspect(hf).nbytes
    edit_json(hf / "model.safetensors.index.json", metadata={"total_size": total})
    refused(hf, "index.json", f"promises {total} bytes", f"the files hold {size}", "belongs to other files")
    for fits in ({"total_size": size}, {"total_size": float(size)}, {}):
        edit_json(hf / "model.safetensors.index.json", metadata=fits)
        checkpoint.inspect(hf)


@pytest.mark.parametrize("path", ["../model.safetensors", "/etc/passwd"])
def test_an_index_that_leads_out_of_its_folder(hf, path):
    reindex(hf, lambda places: places.update({"lm_head.weight": path}))
    refused(hf, "index.json", path, "lies beside its index")


def test_a_header_that_names_a_tensor_twice(native):
    file = native / "consolidated.safetensors"
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = raw[8 : 8 + length].rstrip()
    entry = header[header.index(b'"norm.weight"') :].split(b"}")[0] + b"}"
    twice = header[:-1] + b", " + entry + b"}"
    file.write_bytes(struct.pack("<Q", len(twice)) + twice + raw[8 + length :])
    refused(native, file, "names norm.weight twice")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_warned_of_by_name(native, value, dtype):
    def spoil(tensors):
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)
        tensors["layers.1.attention.wk.weight"][-1, -1] = value

    edit_tensors(native / "consolidated.safetensors", spoil)
    with pytest.warns(UserWarning, match="NaN or infinity is in layers.1.attention.wk.weight of ") as seen:
        mm.load(native, device="cpu")
    assert len(seen) == 1 and seen[0].filename == __file__


def test_numbers_so_large_that_their_sum_is_infinite_are_no_cause_for_a_warning(native, recwarn):
    edit_tensors(native / "consolidated.safetensors", lambda tensors: tensors["norm.weight"].fill_(3e38))
    mm.load(native, device="cpu")
    assert not recwarn.list


def test_a_number_that_float16_cannot_hold_is_warned_of(native):
    edit_tensors(native / "consolidated.safetensors", lambda tensors: tensors["norm.weight"].fill_(1e5))
    with pytest.warns(UserWarning, match="NaN or infinity is in norm.weight"):
        mm.load(native, device="cpu", dtype=torch.float16)


def test_several_dtypes_need_a_choice(native):
    edit_tensors(native / "consolidated.safetensors", lambda tensors: tensors.update({"norm.weight": torch.ones(20).half()}))
    refused(native, "several dtypes", "norm.weight is torch.float16", "dtype=")
    model, _ = mm.load(native, device="cpu", dtype=torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_where_head_dim_is_stated_regrouped_heads_are_refused(hf):
    """Six heads of eight, said to be twelve: the shapes ask for twice as many rows."""
    edit_json(hf / "config.json", num_attention_heads=12, num_key_value_heads=4)
    refused(hf, "self_attn.q_proj.weight", "(48, 36)", "(96, 36)")


def test_where_head_dim_is_stated_regrouped_heads_are_refused_in_native_files_too(native):
    edit_json(native / "params.json", n_heads=12, n_kv_heads=4)
    refused(native, "attention.wq.weight", "(24, 20)", "(48, 20)")


@pytest.mark.parametrize("heads, kv_heads, head_dim", [(64, 16, 64), (16, 4, 256)])
def test_regrouped_heads_of_the_7b_are_refused_by_its_known_layout(native, heads, kv_heads, head_dim):
    """Every tensor would have the right shape: only the numbers of heads tell."""
    big = mm.MistralConfig(dim=4096, n_layers=32, n_heads=heads, n_kv_heads=kv_heads, head_dim=head_dim, hidden_dim=14336,
                           vocab_size=32000, sliding_window=4096)  # fmt: skip
    (native / "params.json").write_text(json.dumps(big.to_params()))
    refused(native, f"{heads} heads of {head_dim}", "Mistral 7B v0.1, with 32 of 128 (and 8 key heads)", "mend the config")


def test_a_window_in_quotes_is_refused(native):
    edit_json(native / "params.json", sliding_window="4096")
    with pytest.raises(mm.ConfigError, match="params.json: sliding_window is '4096': expected a whole number"):
        mm.load(native, device="cpu")


def test_an_absent_theta_is_resolved_and_said_and_an_unknown_key_named(native):
    params = json.loads((native / "params.json").read_text())
    del params["rope_theta"]
    (native / "params.json").write_text(json.dumps(params | {"moe": 1}))
    with pytest.warns(UserWarning) as seen:
        model, _ = mm.load(native, device="cpu")
    said = " ".join(str(warning.message) for warning in seen)
    assert model.config.rope_theta == 1e4 and "has no rope_theta: took 10000 (a window)" in said
    assert "ignored unknown keys moe" in said


# --- v0.1's original file, a pickle in a zip ---------------------------------------------------------------------------


@pytest.fixture
def pth(native):
    file = native / "consolidated.00.pth"
    torch.save(load_file(native / "consolidated.safetensors"), file)
    (native / "consolidated.safetensors").unlink()
    return file


def resave(file, change):
    tensors = torch.load(file, weights_only=True)
    change(tensors)
    torch.save(tensors, file)


@pytest.mark.parametrize("large", [0, 2**28])
def test_a_pth_gives_the_same_model(pth, monkeypatch, large):
    monkeypatch.setattr(checkpoint, "LARGE", large)
    model, _ = mm.load(pth.parent, device="cpu")
    expected = small_model(5)
    assert torch.equal(model(random_ids(1, 13)), expected(random_ids(1, 13)))
    assert checkpoint.inspect(pth.parent).files == (pth,)


def test_a_pickle_with_code_is_refused_and_not_run(pth, tmp_path):
    ran = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return Path.touch, (ran,)

    resave(pth, lambda tensors: tensors.update({"norm.weight": Malicious()}))
    refused(pth.parent, pth, "more than tensors", "refused", "can run code")
    assert not ran.exists()
    torch.load(pth, weights_only=False)
    assert ran.exists(), "the pickle must be one that bites"


def test_a_pth_is_held_to_its_config_like_the_others(pth):
    name = "layers.0.feed_forward.w1.weight"
    whole = pth.read_bytes()
    for change, words in [
        (lambda t: t.pop(name), ["lacks", name]),
        (lambda t: t.update(extra=t[name]), ["holds extra", "no model of its config"]),
        (lambda t: t.update({name: t[name].T.contiguous()}), [name, "(20, 24)", "asks for (24, 20)"]),
        (lambda t: t.update({name: t[name].T.contiguous().T}), [name, "does not lie row by row"]),
        (lambda t: t.update({name: t[name].double()}), [name, "is float64"]),
        (lambda t: t.update({name: [1, 2]}), ["something else than named tensors"]),
    ]:
        resave(pth, change)
        refused(pth.parent, *words)
        pth.write_bytes(whole)


@pytest.mark.parametrize("kept", [-1, 0, 100, 10_000])
def test_a_truncated_pth_is_named(pth, kept):
    pth.write_bytes(pth.read_bytes()[:kept])
    refused(pth.parent, pth, "not a whole .pth file", "download it again")


def test_pth_files_that_cannot_be_mapped_are_refused(pth):
    import zipfile

    tensors = torch.load(pth, weights_only=True)
    with zipfile.ZipFile(pth) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(pth, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    refused(pth.parent, pth, "compressed archive")
    torch.save(tensors, pth, _use_new_zipfile_serialization=False)
    refused(pth.parent, pth, "not a whole .pth file")
    torch.save(tensors, pth)
    shutil.copy(pth, pth.with_name("consolidated.01.pth"))
    refused(pth.parent, "in 2 parts", "consolidated.01.pth")
