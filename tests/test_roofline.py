"""The ceilings of chapter 11: against a count of every pair, a table worked out apart, and the cache itself."""

from dataclasses import replace

import pytest
import torch

import minimistral as mm
from minimistral import counting, masks, roofline
from minimistral.bench import recorded, table

V01 = counting.VERSIONS["v0.1"]
K = 1024


@pytest.mark.parametrize(
    "N, attention, equal, half",
    [
        (8, 1.333, 1.03, None), (16, 2.286, 1.15, 1.27), (32, 4.267, 1.41, 1.73), (64, 8.258, 1.94, 2.67),
        (128, 16.254, 3.01, 4.55),
    ],
)
def test_the_table_of_ceilings(N, attention, equal, half):
    assert roofline.attention_ratio(N * K, 4 * K) == pytest.approx(attention, abs=5e-4)
    assert roofline.prefill_ratio(V01, N * K, 4 * K) == pytest.approx(equal, abs=5e-3)
    if half:
        assert roofline.prefill_ratio(V01, N * K, 4 * K, 0.5) == pytest.approx(half, abs=5e-3)


def test_the_operations_of_a_pre_fill_at_16k():
    linear, full = roofline.prefill_flops(V01, 16 * K, None)
    near = roofline.prefill_flops(V01, 16 * K, 4 * K)[1]
    assert [round(x / 1e12, 1) for x in (linear, full, near)] == [228.7, 70.4, 30.8]
    assert full == 524_288 * 134_225_920 and near == 524_288 * 58_722_304
    assert full / near == roofline.attention_ratio(16 * K, 4 * K)


@pytest.mark.parametrize(
    "gpu, tokens",
    [
        ("H200", (337, 325, 293, 259)),
        ("H100 SXM", (236, 227, 205, 181)),
        ("A100 80 GB", (143, 138, 125, 110)),
        ("RTX 4090", (71, 68, 62, 54)),
        ("T4 (float16)", (22, 22, 20, 17)),
    ],
)
def test_tokens_a_second_at_the_data_sheets_bandwidth(gpu, tokens):
    """Short context, a window of 4k, full at 16k, full at 32k; batch 1."""
    bandwidth = roofline.GPUS[gpu].bandwidth
    for (N, W), expected in zip(((1, None), (16 * K, 4 * K), (16 * K, None), (32 * K, None)), tokens, strict=True):
        got = roofline.decode_tokens_per_second(V01, bandwidth, N, W)
        assert abs(got - expected) < 0.75, (N, W, got)


def test_from_which_batch_on_decode_gains_a_factor_of_two():
    def first(N):
        return next(batch for batch in range(1, 99) if roofline.decode_ratio(V01, N, 4 * K, batch) >= 2)

    assert first(16 * K) == 14 and first(32 * K) == 5
    assert roofline.decode_ratio(V01, 16 * K, 4 * K) == pytest.approx(1.11, abs=5e-3)
    assert roofline.decode_ratio(V01, 16 * K, 4 * K, 32) == pytest.approx(2.6, abs=0.05)


def test_the_ratio_counts_what_the_rule_shows():
    for N in (1, 2, 5, 9, 16):
        for W in (1, 2, 4, 9, 20, None):
            pairs = [sum(bool(masks.visible(i, j, w)) for i in range(N) for j in range(N)) for w in (None, W)]
            assert roofline.attention_ratio(N, W) == pairs[0] / pairs[1]


def test_n_squared_triangles_against_2n_minus_1():
    for n in (2, 4, 8, 16, 32):
        assert roofline.attention_ratio(n * 4096, 4096) == pytest.approx(n * n / (2 * n - 1), rel=1e-3)


def test_blocks_of_one_query_are_the_pairs_themselves():
    for T in (1, 7, 256, 700):
        assert roofline.block_scores(T, 1) == masks.count(T)
        assert roofline.block_scores(T, T) == roofline.block_scores(T, 10 * T) == T * T
        each = sum(min((i // 256 + 1) * 256, T) for i in range(T))  # row by row: to the end of its block
        assert roofline.block_scores(T) == each
    assert roofline.block_ratio(16 * K, 4 * K, 1) == roofline.attention_ratio(16 * K, 4 * K)
    assert roofline.block_ratio(16 * K, 4 * K) == pytest.approx(2.185, abs=5e-4)


def test_the_cache_is_as_large_as_the_cache():
    for N, W in ((4096, 4096), (16 * K, 4096), (32 * K, None)):
        real = mm.RollingBuffer(replace(V01, sliding_window=W or N), batch_size=3, device="meta", dtype=torch.bfloat16)
        assert roofline.cache_bytes(V01, N, W, 3) == real.n_bytes()
    assert roofline.cache_bytes(V01, 100, 4096) == 100 * 131_072
    assert roofline.held_bytes(V01, 16 * K, 4 * K) == 14_483_464_192 + 2**29
    assert roofline.decode_bytes(V01, 1, None) == 2 * (7_241_732_096 - 32_000 * 4096 + 4096) + 131_072


def test_decode_is_bound_by_bytes_and_pre_fill_by_operations():
    for gpu in roofline.GPUS.values():
        for N in (1, 16 * K, 128 * K):
            operations = 64 * sum(counting.flops(replace(V01, sliding_window=None), 1, cached=N - 1).values())
            assert operations / gpu.flops < roofline.decode_bytes(V01, N, None, 64) / gpu.bandwidth
        read_once = roofline.held_bytes(V01, K, None)
        assert roofline.prefill_seconds(V01, gpu.flops, K, 4 * K) > read_once / gpu.bandwidth


def test_a_window_longer_than_the_text_changes_nothing():
    for N in (1, 500, 4096):
        assert roofline.attention_ratio(N, 4096) == 1
        assert roofline.decode_ratio(V01, N, 4096) == roofline.prefill_ratio(V01, N, 4096) == 1


def test_slow_attention_makes_the_gain_larger_up_to_the_operators_own():
    rates = [2, 1, 0.5, 0.1, 1e-6]
    gains = [roofline.prefill_ratio(V01, 16 * K, 4 * K, rate) for rate in rates]
    assert gains == sorted(gains) and gains[-1] == pytest.approx(roofline.attention_ratio(16 * K, 4 * K), rel=1e-3)


def test_every_gpu_names_its_source():
    assert all(gpu.source and gpu.bandwidth < gpu.flops and 10e9 < gpu.memory < 200e9 for gpu in roofline.GPUS.values())


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: roofline.attention_ratio(0, 4), "N is 0"),
        (lambda: roofline.attention_ratio(8, 0), "window is 0"),
        (lambda: roofline.attention_ratio(8.0, 4), "N is 8.0"),
        (lambda: roofline.decode_bytes(V01, 8, 4, batch=0), "batch is 0"),
        (lambda: roofline.prefill_ratio(V01, 8, 4, 0), "attention_rate is 0"),
        (lambda: roofline.prefill_ratio(V01, 8, 4, float("nan")), "attention_rate is nan"),
        (lambda: roofline.block_ratio(10, 4), "two or more whole windows"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_what_was_recorded_stays_under_its_ceiling():
    found = recorded("attention")
    assert found
    for record in found:
        assert record["ceiling"] == pytest.approx(roofline.attention_ratio(record["setting"]["N"], record["setting"]["W"]))
        for line in table(record).lines:
            if "auto against causal" in line.what and line.measured[0].isdigit():
                assert float(line.measured.split()[0]) < record["ceiling"]
