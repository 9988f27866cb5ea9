"""Parameters and operations counted from a config: against real models, PyTorch's FLOP counter, and the published sizes."""

import pytest
import torch
from helpers import random_ids, small_config, small_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import minimistral as mm
from minimistral import counting, masks

aten = torch.ops.aten
LINEAR = ("attention, matrices", "feed forward", "output")
CHANGES = [dict(), dict(n_heads=2, n_kv_heads=2), dict(n_heads=4, n_kv_heads=1, head_dim=10), dict(n_layers=3, vocab_size=7)]


# --- parameters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_parameters_are_those_of_the_model_part_by_part(changes):
    model, parts = mm.Mistral(small_config(**changes)), counting.parameters(small_config(**changes))
    assert sum(parts.values()) == model.n_parameters()
    real = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        owner = name.split(".")[-2]
        real["norms" if "norm" in owner else {"tok_embeddings": "embeddings"}.get(owner, owner)] += parameter.numel()
    assert parts == real


def test_the_released_models():
    totals = {name: sum(counting.parameters(config).values()) for name, config in counting.VERSIONS.items()}
    assert totals == {"v0.1": 7_241_732_096, "v0.2": 7_241_732_096, "v0.3": 7_248_023_552}
    v01, v02, v03 = counting.VERSIONS.values()
    assert [(c.rope_theta, c.sliding_window, c.vocab_size) for c in (v01, v02, v03)] == [
        (1e4, 4096, 32_000), (1e6, None, 32_000), (1e6, None, 32_768)
    ]  # fmt: skip
    sizes = counting.matrices(v01)
    layer = sum(sizes.values()) + 2 * v01.dim
    attention = sum(sizes[name] for name in ("wq", "wk", "wv", "wo"))
    assert layer == 218_112_000 and attention == 2 * 4096**2 + 2 * 4096 * 1024
    assert round(100 * attention / layer) == 19


# --- operations: what PyTorch's counter says --------------------------------------------------------------------------------
# It knows the matrix products (mm, bmm) and some CUDA attention kernels, of which it counts the whole square of queries and
# keys. PyTorch's fused attention kernel for the CPU it does not know: to it, attention costs nothing there. So the tests make
# it count in two ways: attention by plain matrix products (the math backend), and with a formula for the CPU's kernel given.


def counted(run, formulas=None) -> dict[str, int]:
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formulas or {}) as counter:
        run()
    return {str(op): n for op, n in counter.get_flop_counts().get("Global", {}).items()}


def split(parts) -> tuple[int, int]:
    """(linear layers, pairs)"""
    return sum(parts[name] for name in LINEAR), parts["attention, pairs"]


def square(config, queries, keys) -> int:
    return 4 * config.n_layers * config.n_heads * config.head_dim * queries * keys


def by_matrix_products(run) -> tuple[int, int]:
    with sdpa_kernel(SDPBackend.MATH):
        seen = counted(run)
    assert set(seen) <= {"aten.mm", "aten.bmm"}
    return seen["aten.mm"], seen["aten.bmm"]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("W", [None, 1, 7])
def test_prefill_agrees_with_torch(W, changes):
    model, T = small_model(W, **changes), 23
    tokens = random_ids(1, T, vocab_size=model.config.vocab_size)
    linear, attention = by_matrix_products(lambda: model(tokens))
    ours, seen = split(counting.flops(model.config, T))
    assert linear == ours
    assert attention == square(model.config, T, T)  # a masked square: what the window hides is calculated all the same
    assert attention * masks.count(T, W) == seen * T * T
    linear, _ = by_matrix_products(lambda: model(tokens, last_only=True))
    assert linear == split(counting.flops(model.config, T, last_only=True))[0]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("W", [None, 1, 7])
@pytest.mark.parametrize("cached", [1, 6, 7, 20])
def test_a_step_of_decode_agrees_with_torch_in_every_operation(cached, W, changes):
    """One query, and the cache holds just the keys that it sees: the square and the pairs are the same."""
    model = small_model(W, **changes)
    tokens, cache = random_ids(1, cached + 1, vocab_size=model.config.vocab_size), mm.RollingBuffer(model.config)
    with torch.no_grad():
        model(tokens[:, :cached], cache=cache)
    assert by_matrix_products(lambda: model(tokens[:, cached:], cache=cache)) == split(counting.flops(model.config, 1, cached))


@pytest.mark.parametrize("W", [None, 7])
def test_a_chunk_after_others_agrees_with_torch(W):
    model, tokens = small_model(W), random_ids(1, 25)
    cache = mm.RollingBuffer(model.config)
    with torch.no_grad():
        model(tokens[:, :20], cache=cache)
    linear, attention = by_matrix_products(lambda: model(tokens[:, 20:], cache=cache))
    ours, seen = split(counting.flops(model.config, 5, cached=20))
    assert linear == ours and attention == square(model.config, 5, (W or 20) + 5) > seen


def kernel_formula(q, k, v, dropout=0.0, is_causal=False, *args, out_shape=None, **kwargs) -> int:
    """What PyTorch's CPU kernel has to calculate: a triangle if it is causal, else all of queries x keys."""
    B, H, T, D = q
    S = k[2]
    assert not is_causal or T == S
    return 4 * B * H * D * (T * (T + 1) // 2 if is_causal else T * S)


@pytest.mark.parametrize("W, T", [(None, 40), (64, 600), (100, 777), (512, 1024)])
def test_what_the_kernels_really_calculate_is_our_pairs(W, T):
    """From 512 tokens on, the library's window attention asks the kernel for triangles only: no more pairs than are seen."""
    model = small_model(W)
    tokens = random_ids(1, T)
    kernel = aten._scaled_dot_product_flash_attention_for_cpu
    seen = counted(lambda: model(tokens), {kernel: kernel_formula})
    name = str(kernel)
    assert set(seen) == {"aten.mm", name}, "the CPU's kernel was not seen: which one ran?"
    assert (seen["aten.mm"], seen[name]) == split(counting.flops(model.config, T))


# --- operations: the published sizes --------------------------------------------------------------------------------------


def test_operations_of_the_7b():
    v01, v02 = counting.VERSIONS["v0.1"], counting.VERSIONS["v0.2"]
    for N in (1_024, 16_384, 131_072):
        window, full = counting.flops(v01, N), counting.flops(v02, N)
        assert full["attention, pairs"] == 524_288 * masks.count(N)
        assert window["attention, pairs"] == 524_288 * masks.count(N, 4096)
        assert window["attention, matrices"] + window["feed forward"] == 2 * 6_979_321_856 * N
        assert counting.flops(v01, N, last_only=True)["output"] == 2 * 32_000 * 4096
    window, full = counting.flops(v01, 16_384), counting.flops(v02, 16_384)
    tera = [window["attention, matrices"] + window["feed forward"], full["attention, pairs"], window["attention, pairs"]]
    assert [round(n / 1e12, 1) for n in tera] == [228.7, 70.4, 30.8]


@pytest.mark.parametrize("W", [None, 1, 4, 100])
def test_chunks_add_up_to_the_whole(W):
    config = small_config(W)
    for sizes in ([11], [1] * 11, [3, 3, 5], [10, 1]):
        starts = [sum(sizes[:n]) for n in range(len(sizes))]
        chunks = [counting.flops(config, n, cached=at) for n, at in zip(sizes, starts, strict=True)]
        assert {part: sum(chunk[part] for chunk in chunks) for part in chunks[0]} == counting.flops(config, 11)


@pytest.mark.parametrize("tokens, cached", [(0, 0), (-1, 5), (3, -1)])
def test_counts_that_cannot_be_are_refused(tokens, cached):
    with pytest.raises(ValueError, match=f"tokens is {tokens} and cached is {cached}; expected at least 1 new token"):
        counting.flops(small_config(), tokens, cached)
