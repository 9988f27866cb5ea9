"""A model over two processes against the whole in one, and the command that does it. Two CPU processes stand in for two GPUs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from helpers import largest_difference, random_ids, small_config, small_model
from two_ranks import COMMAND

import minimistral as mm
from minimistral import checkpoint, cli, counting, parallel

TESTS = Path(__file__).parent


def torchrun(*command) -> str:
    """What two processes print, once both are done; neither outlives the test."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, command)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent), "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          encoding="utf-8") as running:  # fmt: skip
        try:
            out, errors = running.communicate(timeout=600)
        finally:
            for process in [*psutil.Process(running.pid).children(recursive=True), running] if running.poll() is None else []:
                process.kill()
    assert running.returncode == 0, errors
    return out


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    if sys.platform == "win32":
        pytest.skip("torchrun has not been tried on Windows")
    folder = tmp_path_factory.mktemp("ranks")
    model = small_model(3)
    checkpoint.save(model, folder / "native")
    checkpoint.export(model, folder / "hf", shards=2)
    printed = torchrun(TESTS / "two_ranks.py", folder)
    return *(json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)), printed


@pytest.mark.parametrize("window", ["window 3", "mixed"])
def test_two_processes_give_the_logits_of_one(ranks, window):
    for found in ranks[:2]:
        assert found[window]["at once"] < 1e-5
        assert found[window]["in chunks"] < 1e-5


def test_a_rank_keeps_its_own_key_heads_only(ranks):
    for found in ranks[:2]:
        assert found["window 3"]["key heads"] == found["mixed"]["key heads"] == [1]
        assert found["window 3"]["cache"] == 2 * 2 * 2 * 1 * 3 * 4 * 4  # keys and values, layers, rows, heads, slots, D, bytes


@pytest.mark.parametrize("format", ["native", "hf"])
def test_a_folder_loaded_by_parts(ranks, format):
    part = parallel.share(small_config(3), 2)
    for found in ranks[:2]:
        assert found[format]["logits"] < 1e-5
        assert found[format]["held"] == sum(counting.parameters(part).values()) == mm.Mistral(part).n_parameters()


def test_ranks_generate_what_one_process_does_and_draw_alike(ranks):
    assert ranks[0]["likeliest"] and ranks[1]["likeliest"]
    assert ranks[0]["drawn"] == ranks[1]["drawn"]
    assert [len(row) for row in ranks[0]["drawn"]] == [3, 3]


def test_heads_that_cannot_be_shared_are_refused_and_the_model_left_alone(ranks):
    for found in ranks[:2]:
        said, untouched = found["refused"]
        assert said == "2 processes cannot share 1 key heads and hidden_dim = 24 evenly: start as many as can (1)."
        assert untouched


def test_the_command_says_it_once_and_as_one_process_does(ranks, capsys):
    assert cli.main([word for word in COMMAND if word != "--parallel"]) == 0
    assert ranks[2] == capsys.readouterr().out


# --- in one process -------------------------------------------------------------------------------------------------------


def test_ranks_by_hand():
    """The idea without torch.distributed: two thinner models, whose halves are added after each half layer."""
    whole = small_model(3)
    config = parallel.share(whole.config, 2)
    parts = [mm.Mistral(config).requires_grad_(False) for _ in range(2)]
    for rank, part in enumerate(parts):
        for name, weight in part.state_dict().items():
            own = whole.get_parameter(name)
            cut = [dim for dim in range(weight.ndim) if weight.shape[dim] != own.shape[dim]]
            weight.copy_(own.chunk(2, cut[0])[rank] if cut else own)
    ids = random_ids(1, 8)
    at = torch.arange(8)
    turn = mm.model.rope.angles(at, config.head_dim, config.rope_theta)
    x = whole.tok_embeddings(ids)
    for blocks in zip(*(part.layers for part in parts), strict=True):
        x = x + sum(block.attention(block.attention_norm(x), turn, None, 0, None) for block in blocks)
        x = x + sum(block.feed_forward(block.ffn_norm(x)) for block in blocks)
    assert largest_difference(whole.output(whole.norm(x)), whole(ids)) < 1e-5


@pytest.mark.parametrize(("ranks", "changes", "said"), [
    (4, {}, "4 processes cannot share 2 key heads and hidden_dim = 24 evenly: start as many as can (1, 2)."),
    (2, {"hidden_dim": 25}, "2 processes cannot share 2 key heads and hidden_dim = 25 evenly: start as many as can (1)."),
    (3, {"n_heads": 12, "n_kv_heads": 12, "hidden_dim": 32}, "hidden_dim = 32 evenly: start as many as can (1, 2, 4)."),
])  # fmt: skip
def test_what_does_not_divide(ranks, changes, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        parallel.share(small_config(**changes), ranks)


def test_a_share_of_the_7b():
    part = parallel.share(counting.VERSIONS["v0.1"], 2)
    assert (part.n_heads, part.n_kv_heads, part.hidden_dim, part.dim, part.n_layers) == (16, 4, 7168, 4096, 32)
    assert parallel.share(part, 4).n_kv_heads == 1


def test_one_process_alone_is_told_what_to_do(monkeypatch, capsys):
    from minimistral import cli

    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cli.main(["generate", "Once", "--parallel"]) == 2
    assert "start several, as in torchrun --nproc-per-node 2" in capsys.readouterr().err


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match="started 2 processes and here are 1 GPUs: give --nproc-per-node 1"):
        parallel.join()
