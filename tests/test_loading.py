"""Chapter 10: the exercises' answers agree with the library, which writes and reads such folders."""

import json
import math
import re
from itertools import product
from pathlib import Path

import pytest
import torch
from helpers import small_config

from minimistral import bench, checkpoint, counting, doctor, mock, quantize
from minimistral.exercises import loading
from minimistral.exercises import rope as chapter_02
from minimistral.model import Mistral
from minimistral.widgets.memory import SYSTEM

GIB = 2**30
PAGE = Path(__file__).parent.parent / "notebooks" / "10_load_the_7b.ipynb"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One small model in both formats, 291 tensors of them; D = 6, at which there and back are not the same."""
    from dataclasses import replace

    config = replace(counting.VERSIONS["v0.1"], dim=8, head_dim=6, n_heads=4, n_kv_heads=2, hidden_dim=12, vocab_size=40)
    made = {format: tmp_path_factory.mktemp(format) for format in ("native", "hf")}
    for format, folder in made.items():
        mock.write(folder, config, format=format, shards=3 if format == "hf" else 1, progress=False)
    return config, made


def test_names_and_rows_make_a_native_file_of_a_hugging_face_folder(folders):
    from safetensors.torch import load_file

    config, made = folders
    native, mine = load_file(made["native"] / "consolidated.safetensors"), {}
    for file in sorted(made["hf"].glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            new = loading.native_name.answer(name)
            assert checkpoint.hf_name(new) == name
            mine[new] = loading.native_rows.answer(new, tensor, config.n_heads, config.n_kv_heads)
    assert len(mine) == 291 and mine.keys() == native.keys()
    assert all(torch.equal(mine[name], native[name]) for name in native)


def test_the_place_is_the_loaders(folders):
    for file in [file for folder in folders[1].values() for file in folder.glob("*.safetensors")]:
        data = file.read_bytes()
        for name, place in checkpoint.read_header(file).items():
            assert loading.where.answer(data, name) == (place.start, place.start + place.nbytes)


def test_the_rows_are_put_back_for_any_heads():
    config = small_config()
    for name, tensor in Mistral(config).state_dict().items():
        heads = {"wq": config.n_heads, "wk": config.n_kv_heads}.get(name.split(".")[-2])
        theirs = tensor if heads is None else chapter_02.to_half_split.answer(tensor, heads)
        assert torch.equal(loading.native_rows.answer(name, theirs, config.n_heads, config.n_kv_heads), tensor)


def test_the_longest_text_fits_and_one_more_token_does_not():
    def fits(n, memory, weights, per_token, batch, window):
        kept = n if window is None else min(n, window)
        return weights + 2 + batch * per_token * kept <= memory

    for plan in product((9, 40, 41, 57), (8, 30), (1, 3), (1, 2), (None, 1, 4, 30)):
        n = loading.longest.answer(plan[0], plan[1], 2, *plan[2:])
        if n == math.inf:
            assert fits(10**9, *plan)
        else:
            assert not fits(n + 1, *plan) and (n == 0 or fits(n, *plan))


def test_the_cases_tell_the_directions_apart():
    there = chapter_02.to_half_split.answer
    for name, w, n_heads, n_kv_heads in loading.stored_rows():
        if name.endswith(("wq.weight", "wk.weight")):
            heads = n_heads if "wq" in name else n_kv_heads
            assert not torch.equal(there(w, heads), loading.native_rows.answer(name, w, n_heads, n_kv_heads))
    assert max(len(data) for data, _ in loading.files()) > 2**16


def test_keys_reordered_with_the_query_heads_give_other_numbers_not_an_error():
    """However it is written: a reshape that fails would say nothing about heads."""
    keys = [case for case in loading.stored_rows() if case[0].endswith("wk.weight")]
    assert keys
    for _, w, n_heads, n_kv_heads in keys:
        assert n_heads > n_kv_heads and len(w) % (2 * n_heads) == 0 and len(w) // n_heads > 4


def test_the_header_may_name_tensors_in_another_order_than_their_numbers():
    def order(data):
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return [entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"]

    assert any(order(data) != sorted(order(data)) for data, _ in loading.files())


def test_the_numbers_of_the_pages_prose():
    v01, v02 = counting.VERSIONS["v0.1"], counting.VERSIONS["v0.2"]
    assert doctor.workspace(v01, "bf16", 16_384, 128, "GPU") / GIB == pytest.approx(0.8, abs=0.05)
    assert doctor.workspace(v01, "bf16", 4096, 512, "CPU") / GIB == pytest.approx(0.1, abs=0.05)

    def longest(have, work, config):
        weights = quantize.planned_bytes(config)
        return loading.longest.answer(round(have * GIB), weights, round(work * GIB), 131_072, 1, config.sliding_window)

    assert longest(15, 0.8, v01) == math.inf and round(longest(15, 0.8, v02), -3) == 6000
    assert round(longest(16 - SYSTEM, 0.1, v01), -3) == 3000 == round(longest(16 - SYSTEM, 0.1, v02), -3)


def test_the_middles_on_the_page_are_the_librarys():
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(PAGE.read_text(encoding="utf-8"))["cells"]}
    there = dict(re.findall(r'"([\w.]+)": "([\w.]+)"', cells["names-middle"]))
    assert {f"layers.3.{ours}.weight" for ours in there.values()} == {
        name for name in Mistral(small_config(n_layers=4)).state_dict() if name.startswith("layers.3.")
    }
    for theirs, ours in there.items():
        assert checkpoint.hf_name(f"layers.3.{ours}.weight") == f"model.layers.3.{theirs}.weight"


def test_what_was_recorded_at_full_size_held_the_weights_once():
    for record in (record for record in bench.recorded("load") if record["setting"]["layers"] == 32):
        assert record["machine"]["date"] and "minimistral" in record["memory"]
        for name, seen in record["memory"].items():
            assert 0.98 < seen["grown"] / record["setting"]["bytes"] < 1.02, name
