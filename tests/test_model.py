"""The whole model: against plain loops and transformers' norm; causality; padding; bad input."""

import pytest
import torch
from helpers import largest_difference, random_ids, small_config, small_model, spread
from transformers.models.mistral.modeling_mistral import MistralMLP, MistralRMSNorm

import minimistral as mm
from minimistral import naive
from minimistral.model import FeedForward, RMSNorm

# --- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])  # eps matters at the first; float16 squares overflow at the last
def test_rmsnorm_equals_transformers_bit_for_bit(dtype, size):
    x = (torch.randn(7, 64, generator=torch.Generator().manual_seed(0)) * size).to(dtype)
    weight = torch.randn(64, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours, theirs = RMSNorm(64, 1e-5).to(dtype), MistralRMSNorm(64, 1e-5).to(dtype)
    ours.weight.data, theirs.weight.data = weight, weight
    assert torch.equal(ours(x), theirs(x))
    if dtype == torch.float32:
        torch.testing.assert_close(ours(x)[3], naive.rms_norm(x[3], weight, 1e-5))


def test_feed_forward_gates_w3_by_w1():
    config = small_config()
    ours = spread(FeedForward(config))

    class Sizes:
        hidden_size, intermediate_size, hidden_act = config.dim, config.hidden_dim, "silu"

    theirs = MistralMLP(Sizes)
    for name, weight in (("gate_proj", ours.w1), ("down_proj", ours.w2), ("up_proj", ours.w3)):
        getattr(theirs, name).weight = weight.weight
    x = torch.randn(5, config.dim, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x))


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(n_heads=2, n_kv_heads=2),
        dict(n_heads=4, n_kv_heads=1),
        dict(n_layers=3, head_dim=10),
        dict(norm_eps=0.5),
        dict(rope_theta=1e6),
    ],
    ids=str,
)
@pytest.mark.parametrize("W", [None, 1, 2, 5])
def test_logits_equal_the_loops(W, changes):
    model, tokens = small_model(W, **changes), random_ids(1, 12)
    expected = naive.logits(model.state_dict(), model.config, tokens[0].tolist())
    assert largest_difference(model(tokens)[0], expected) < 1e-4


@pytest.mark.parametrize("layers, W", [(1, 4), (2, 3), (3, 3), (2, 1)])
def test_information_travels_exactly_layers_times_window_minus_one(layers, W):
    """Change token 0: the positions 0 ... L(W-1) may notice, and the last of them does."""
    model, tokens = small_model(W, n_layers=layers), random_ids(1, 14)
    other = tokens.clone()
    other[0, 0] = (other[0, 0] + 1) % model.config.vocab_size
    changed = (model(tokens) != model(other)).any(-1)[0].nonzero().flatten().tolist()
    assert changed == list(range(layers * (W - 1) + 1))


@pytest.mark.parametrize("W", [None, 3])
def test_the_last_token_changes_no_earlier_logit(W):
    model, tokens = small_model(W), random_ids(2, 11)
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % model.config.vocab_size
    one, two = model(tokens), model(other)
    assert torch.equal(one[:, :-1], two[:, :-1])
    assert not torch.equal(one[:, -1], two[:, -1])


@pytest.mark.parametrize("cached", [None, "config", "growing"])
@pytest.mark.parametrize("W", [None, 3])
def test_a_row_does_not_depend_on_its_neighbours(W, cached):
    """Three rows of 11, 4 and 7 real tokens, in two padded chunks if cached; then two more tokens each."""
    model, tokens = small_model(W), random_ids(3, 13)
    lengths = [11, 4, 7]

    def run(tokens):
        if cached is None:
            out = model(tokens[:, :11], lengths=torch.tensor(lengths))
            return [out[row, :n] for row, n in enumerate(lengths)]
        cache = mm.RollingBuffer(model.config, len(tokens), window="config" if cached == "config" else None)
        parts = [[] for _ in lengths]
        for start, stop in ((0, 5), (5, 11)):
            here = [min(max(n - start, 0), stop - start) for n in lengths]
            out = model(tokens[:, start:stop], cache=cache, lengths=here)
            for row, n in enumerate(here):
                parts[row].append(out[row, :n])
        for column in (11, 12):
            out = model(tokens[:, column : column + 1], cache=cache)
            for row in range(3):
                parts[row].append(out[row])
        return [torch.cat(part) for part in parts]

    before = run(tokens)
    for row in range(3):
        others = [r for r in range(3) if r != row]
        changed = tokens.clone()
        changed[others] = random_ids(2, 13, seed=9)
        torch.testing.assert_close(run(changed)[row], before[row], atol=1e-5, rtol=0)
        n = lengths[row]
        alone = torch.cat([tokens[row, :n], tokens[row, 11:] if cached else tokens[row, :0]])[None]
        assert largest_difference(model(alone)[0], before[row]) < 1e-4


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8])
@pytest.mark.parametrize("cached", [False, True])
def test_last_only_gives_each_row_its_own_last_real_position(cached, dtype):
    model, tokens, lengths = small_model(3), random_ids(3, 9), torch.tensor([2, 9, 5], dtype=dtype)

    def cache():
        return mm.RollingBuffer(model.config, 3) if cached else None

    whole = model(tokens, lengths=lengths, cache=cache())
    last = model(tokens, lengths=lengths, cache=cache(), last_only=True)
    assert last.shape == (3, 1, model.config.vocab_size)
    for row, n in enumerate((2, 9, 5)):
        torch.testing.assert_close(last[row, 0], whole[row, n - 1], atol=1e-5, rtol=0)
        assert largest_difference(last[row, 0], model(tokens[row : row + 1, :n])[0, -1]) < 1e-4
    assert largest_difference(model(tokens, last_only=True)[:, 0], model(tokens)[:, -1]) < 1e-4


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8])
def test_lengths_of_any_whole_dtype_move_the_cache_alike(dtype):
    model, tokens = small_model(3), random_ids(2, 8)
    cache = mm.RollingBuffer(model.config, 2)
    model(tokens[:, :6], cache=cache, lengths=torch.tensor([2, 6], dtype=dtype))
    got = model(tokens[:, 6:], cache=cache)
    for row, n in enumerate((2, 6)):
        alone = model(torch.cat([tokens[row, :n], tokens[row, 6:]])[None])
        assert largest_difference(got[row], alone[0, -2:]) < 1e-4


def test_logits_are_float32_and_a_bfloat16_model_is_near_its_float32_self():
    model, tokens = small_model(3), random_ids(1, 40)
    exact = model.bfloat16().float()(tokens)  # the same rounded weights, float32 arithmetic
    rough = model.bfloat16()
    cache = mm.RollingBuffer(rough.config, dtype=torch.bfloat16)
    for got in (rough(tokens), rough(tokens, cache=cache)):
        assert got.dtype == torch.float32
        assert largest_difference(got, exact) < 0.05 * exact.abs().max()


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens, words",
    [
        (torch.tensor([[1.0, 2.0]]), "tokens is torch.float32; expected an int64 tensor"),
        (torch.tensor([[1, 2]], dtype=torch.int32), "torch.int32"),
        ([[1, 2]], "tokens is list"),
        (torch.tensor([1, 2]), r"shape \(2,\); expected \(batch, positions\)"),
        (torch.tensor([[[1]]]), r"shape \(1, 1, 1\)"),
        (torch.zeros(0, 3, dtype=torch.int64), r"shape \(0, 3\)"),
        (torch.zeros(2, 0, dtype=torch.int64), r"shape \(2, 0\)"),
        (torch.tensor([[1, -1]]), "the id -1; this model's ids are 0 to 39"),
        (torch.tensor([[1, 40]]), "the id 40; this model's ids are 0 to 39"),
    ],
)
def test_tokens_that_do_not_fit_are_named(tokens, words):
    with pytest.raises(ValueError, match=words):
        small_model()(tokens)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("lengths", [[1], [1, 2, 3], [1, 4], [-1, 2], [1.0, 2.0], [True, True], [[1, 2]]])
def test_lengths_that_do_not_fit_are_named(lengths, cached):
    model = small_model(3)
    cache = mm.RollingBuffer(model.config, 2) if cached else None
    with pytest.raises(ValueError, match="lengths is .*expected 2 whole numbers from . to 3") as error:
        model(random_ids(2, 3), lengths=lengths, cache=cache)
    assert str(lengths) in str(error.value)


def test_a_row_of_length_zero_needs_a_cache():
    model, tokens = small_model(3), random_ids(2, 3)
    with pytest.raises(ValueError, match=r"lengths is \[0, 3\]; expected 2 whole numbers from 1 to 3"):
        model(tokens, lengths=[0, 3])
    model(tokens, lengths=[0, 3], cache=mm.RollingBuffer(model.config, 2))
