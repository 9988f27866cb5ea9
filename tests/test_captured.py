"""One step of decode captured as a graph: the same logits as the model's, whatever the cache held and holds."""

import pytest
import torch
from helpers import largest_difference, random_ids, small_model

import minimistral as mm
from minimistral import captured, generation, museum
from minimistral.cache import RollingBuffer
from minimistral.captured import FixedRing, capture
from minimistral.hybrid import cache_for


@torch.inference_mode()
def both_ways(model, tokens, sizes, steps, window="config", **options):
    """Feed chunks of these sizes to two caches, then single tokens: one through the model, one through its captured step."""
    B = len(tokens)
    plain, other = (RollingBuffer(model.config, B, window=window) for _ in range(2))
    at = 0
    for n in sizes:
        for cache in (plain, other):
            model(tokens[:, at : at + n], cache=cache, **options)
        at += n
    step = capture(model, other, at + steps)
    expected, got = [], []
    for n in range(at, at + steps):
        expected.append(model(tokens[:, n : n + 1], cache=plain)[:, -1])
        got.append(step(tokens[:, n]).clone())
    assert torch.equal(plain.position, other.position) and plain.filled == other.filled
    return torch.stack(expected), torch.stack(got), plain, other


@pytest.mark.parametrize("sizes", [[1], [3, 4], [2, 9]])
@pytest.mark.parametrize("W", [1, 2, 5, None])
@pytest.mark.parametrize("grad", [False, True])
def test_a_captured_step_gives_the_models_logits_across_the_window(W, sizes, grad):
    """Begun before the ring is full, and long after: 15 steps each, and as at once without a cache."""
    model, tokens = small_model(W), random_ids(1, sum(sizes) + 15)
    model.requires_grad_(grad)
    expected, got, *_ = both_ways(model, tokens, sizes, 15)
    assert largest_difference(expected, got) < 1e-5
    with torch.no_grad():
        assert largest_difference(got[:, 0], model(tokens)[0, sum(sizes) :]) < 1e-4


def test_rows_of_different_lengths_and_a_growing_cache():
    model, tokens = small_model(5), random_ids(3, 30)
    for window in ("config", 9, None):
        expected, got, plain, other = both_ways(model, tokens, [6], 24, window, lengths=torch.tensor([6, 1, 3]))
        assert largest_difference(expected, got) < 1e-5
        assert plain.position.tolist() == [30, 25, 27]
        chunk = random_ids(3, 4, seed=5)
        with torch.inference_mode():
            assert largest_difference(*(model(chunk, cache=cache) for cache in (plain, other))) < 1e-5


def test_a_hybrid_cache_is_refused_and_decode_goes_on_without_a_graph():
    model = small_model((3, None))
    cache = cache_for(model.config)
    with pytest.raises(ValueError, match="cache is a HybridCache: a step can be captured with a RollingBuffer only; decode by"):
        capture(model, cache, 200)
    assert captured.captured(model, cache, 200) is None


def test_capturing_leaves_the_cache_where_it_was_and_shares_the_weights():
    model, tokens = small_model(4), random_ids(1, 9)
    with torch.inference_mode():
        cache = RollingBuffer(model.config)
        model(tokens, cache=cache)
        step = capture(model, cache, 40)
        assert cache.position.tolist() == [9] and cache.filled == 4
        before = step(torch.tensor([7])).clone()
    with torch.no_grad():
        model.output.weight.mul_(2)
    with torch.inference_mode():
        cache.position -= 1
        assert largest_difference(step(torch.tensor([7])), 2 * before) < 1e-4


@pytest.mark.parametrize("options", [dict(), dict(temperature=0.9, seed=3, top_p=0.9)])
@pytest.mark.parametrize("W", [3, 8, None])
def test_a_long_generation_is_the_same_with_a_graph_and_without(W, options, monkeypatch):
    model, prompts = small_model(W), [random_ids(1, n, seed=n)[0].tolist() for n in (3, 7)]
    made, real = [], captured.capture
    monkeypatch.setattr(captured, "capture", lambda *args: made.append(args) or real(*args))
    quick = mm.generate(model, prompts, 90, eos_id=None, **options)
    assert len(made) == 1
    monkeypatch.setattr(captured, "WORTH_A_GRAPH", 10**9)
    plain = mm.generate(model, prompts, 90, eos_id=None, **options)
    assert len(made) == 1 and quick.tokens == plain.tokens
    for a, b in zip(quick.logprobs, plain.logprobs, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_where_no_graph_can_be_made_decode_goes_on_and_says_so(monkeypatch):
    def broken(*_):
        raise RuntimeError("no tracer here")

    model = small_model(3)
    expected = mm.generate(model, [[1, 2]], 80, eos_id=None)
    monkeypatch.setattr(captured, "_trace", broken)
    with pytest.warns(UserWarning, match="without a graph: RuntimeError"):
        assert mm.generate(model, [[1, 2]], 80, eos_id=None).tokens == expected.tokens


def test_whoever_watches_the_layers_sees_every_step():
    model, seen = small_model(3), []
    hook = model.layers[1].register_forward_hook(lambda *_: seen.append(1))
    mm.generate(model, [[1, 2]], 80, eos_id=None)
    hook.remove()
    assert len(seen) == 80


def test_a_cache_of_another_kind_and_a_planted_bug_are_heeded_at_every_step(monkeypatch):
    """What replaces a piece of the cache would be passed over by a graph, which has pieces of its own."""
    class Counting(RollingBuffer):
        steps = 0

        def begin(self, T, lengths):
            self.steps += 1
            return super().begin(T, lengths)

    model, prompt = small_model(3), [[1, 2]]
    cache = Counting(model.config)
    new = [ids[0] for ids, _ in generation.decode(model, prompt, 80, eos_id=None, cache=cache)]
    assert cache.steps == 80 and [new] == mm.generate(model, prompt, 80, eos_id=None).tokens
    with museum.planted(8):
        wrong = mm.generate(model, prompt, 80, eos_id=None)
        monkeypatch.setattr(captured, "WORTH_A_GRAPH", 10**9)
        assert mm.generate(model, prompt, 80, eos_id=None) == wrong


def test_a_nan_is_named_by_its_row_also_late():
    model = small_model(3)
    with torch.no_grad():
        steps = generation.decode(model, [[1, 2], [3]], 100, eos_id=None)
        for _ in range(40):
            next(steps)
        model.output.weight.fill_(float("nan"))
        with pytest.raises(ValueError, match="row 0 of the logits holds NaN"):
            list(steps)


@pytest.mark.parametrize("V", [5, 2048])
def test_draws_are_those_of_torch_multinomial(V):
    logits = torch.randn(7, V, generator=torch.Generator().manual_seed(1)) * 3
    for seed in range(20):
        generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
        expected = torch.multinomial(generation.probabilities(logits, 0.8, top_k=4), 1, generator=generators[0])[:, 0]
        assert torch.equal(generation.choose(logits, 0.8, top_k=4, generator=generators[1]), expected)


def test_the_step_is_one_graph_for_the_compiler_too():
    """fullgraph: torch.compile finds nothing in a step that it would have to leave to Python."""
    model, cache = small_model(4), None
    with torch.inference_mode():
        cache, other = RollingBuffer(model.config), RollingBuffer(model.config)
        for each in (cache, other):
            model(random_ids(1, 9), cache=each)
        ring, everyone = FixedRing(cache, 100), torch.ones_like(cache.position)
        step = torch.compile(lambda ids: model.unchecked(ids[:, None], ring, everyone), fullgraph=True, backend="eager")
        for token in (3, 8, 1):
            ids = torch.tensor([token])
            assert largest_difference(step(ids), model(ids[:, None], cache=other)) < 1e-5


@pytest.mark.parametrize("read, full", [(3, False), (4, True), (11, True)])
def test_a_full_ring_needs_no_mask_and_one_that_is_not_full_keeps_it(read, full):
    """W = 5: with four tokens read, the next one fills it."""
    model, tokens = small_model(5), random_ids(2, 30)
    with torch.inference_mode():
        plain, other = RollingBuffer(model.config, 2), RollingBuffer(model.config, 2)
        for cache in (plain, other):
            model(tokens[:, :read], cache=cache)
        ring, everyone = FixedRing(other, 100, unmasked=True), torch.ones(2, dtype=torch.int64)
        assert ring.masked != full
        for n in range(read, 30):
            expected, got = model(tokens[:, [n]], cache=plain), model.unchecked(tokens[:, [n]], ring, everyone)
            assert largest_difference(expected, got) < 1e-5
        ragged, growing = RollingBuffer(model.config, 2), RollingBuffer(model.config, 2, window=None)
        model(tokens[:, :9], cache=ragged, lengths=torch.tensor([9, 3]))
        model(tokens[:, :9], cache=growing)
        assert FixedRing(ragged, 100, unmasked=True).masked and FixedRing(growing, 100, unmasked=True).masked


# --- on a GPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("W", [5, 40])
def test_the_cuda_graph_gives_the_models_logits(W, compiled):
    model, tokens = small_model(W, head_dim=16).cuda(), random_ids(2, 60).cuda()
    with torch.inference_mode():
        plain, other = (RollingBuffer(model.config, 2, device="cuda") for _ in range(2))
        for cache in (plain, other):
            model(tokens[:, :20], cache=cache)
        step = capture(model, other, 60, compiled)
        for n in range(20, 60):
            expected = model(tokens[:, n : n + 1], cache=plain)[:, -1]
            assert largest_difference(step(tokens[:, n]), expected) < 1e-3


@pytest.mark.gpu
def test_a_long_generation_on_a_gpu_is_that_of_the_cpu():
    model, prompts = small_model(8, head_dim=16), [[1, 5, 9], [2, 3, 4, 7]]
    expected = mm.generate(model, prompts, 100, eos_id=None)
    got = mm.generate(model.cuda(), prompts, 100, eos_id=None)
    assert got.tokens == expected.tokens
