"""Chapter 10: the memory planner adds up what real models and caches take, and its page shows what Python computed."""

import json
import re
from dataclasses import replace

import pytest
import torch

import minimistral as mm
from minimistral import doctor, mock
from minimistral.bench.measure import peak_bytes
from minimistral.counting import VERSIONS, parameters
from minimistral.exercises import loading
from minimistral.widgets import memory
from minimistral.widgets.memory import BATCHES, BITS, CHUNKS, GIB, MACHINES, TOKENS, Planner
from minimistral.widgets.picture import Picture

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_parts_are_those_of_the_real_thing():
    for version, config in VERSIONS.items():
        assert memory.weights(version, 16) == round(sum(parameters(config).values()) * 2 / GIB, 2)
    assert [memory.weights("v0.1", bits) for bits in BITS] == [13.49, 6.87, 3.76]
    assert memory.cached("v0.1", 32_768, 1, True) == 0.5 and memory.cached("v0.1", 32_768, 1, False) == 4
    assert memory.cached("v0.1", 131_072, 8, True) == 4 and memory.cached("v0.3", 16_384, 4, True) == 8
    for tokens in TOKENS:
        for batch in BATCHES:
            assert memory.cached("v0.2", tokens, batch, False) == round(131_072 * tokens * batch / GIB, 2)


def test_the_workspace_is_the_doctors_and_grows_with_the_rows():
    for place, kept in (("GPU", 0), ("CPU", memory.SYSTEM)):
        for kind, bits in doctor.KINDS.items():
            for chunk in CHUNKS:
                one = doctor.workspace(VERSIONS["v0.1"], kind, 16_384, chunk, place) / GIB + kept
                assert memory.workspace("v0.1", bits, 16_384, 1, chunk, True, place) == round(one, 2)
    args = ("v0.1", 16, 16_384), (512, True, "GPU")
    alone, four, sixteen = (memory.workspace(*args[0], batch, *args[1]) for batch in (1, 4, 16))
    assert sixteen - four == pytest.approx(12 * (alone - 0.5), rel=0.02)  # CUDA's half GiB once
    growing = memory.workspace("v0.1", 16, 131_072, 1, 64, False, "GPU")
    assert growing > 8, "without a window a cache is copied into one of twice the size"


@pytest.mark.parametrize("W, batch, chunk", [(128, 1, 64), (128, 4, 32), (1024, 4, 32), (1024, 1, 32), (256, 1, 256)])
def test_a_real_pass_takes_no_more(W, batch, chunk):
    config = mm.MistralConfig(
        dim=256, n_layers=2, n_heads=8, n_kv_heads=2, head_dim=32, hidden_dim=896, vocab_size=500, sliding_window=W
    )
    with torch.no_grad():
        model, ids = mm.Mistral(config).bfloat16(), torch.zeros(batch, W, dtype=torch.int64)
        cache = mm.RollingBuffer(config, batch, dtype=torch.bfloat16)
        for start in range(0, W, chunk):
            model(ids[:, start : start + chunk], cache=cache, last_only=True)
        measured = peak_bytes(lambda: model(ids[:, :chunk], cache=cache, last_only=True))
    assert measured <= batch * doctor.workspace(config, "bf16", 10 * W, chunk, "CPU")


def test_the_puzzle_of_the_chapter():
    card, laptop = Planner(), Planner(machine="laptop, 16 GiB")
    assert not card.fits() and replace(card, chunk=128).fits() and replace(card, bits=8).fits()
    assert not replace(laptop, chunk=64).fits() and replace(laptop, bits=8).fits()
    assert replace(card, machine="GPU: RTX 4060 Ti, 16 GB").fits()
    assert card.title() == "7B v0.1 in bfloat16, 1 row of 16,384 tokens in chunks of 512, a window of 4,096; GPU: T4, 16 GB"
    assert not replace(card, chunk=64, window=False).fits() and not replace(card, chunk=64, version="v0.2").fits()
    assert replace(card, bits=4).verdict() == "int4 does not run on this card" and not replace(card, bits=4).fits()
    assert replace(card, version="v0.3").title().endswith("all kept; GPU: T4, 16 GB")


def test_the_exercise_gives_the_same_answer():
    for machine in MACHINES:
        for window in (True, False):
            state = Planner(machine=machine, window=window)
            parts = {name: round(size * GIB) for name, size in state.parts().items()}
            room = round(state.memory() * GIB)
            most = loading.longest.answer(room, parts["weights"], parts["workspace"], 131_072, 1, 4096 if window else None)
            assert state.fits() == (most >= state.tokens), (machine, window)


def test_the_text_twin():
    lines = Planner(bits=8, tokens=32_768, batch=4, window=False, machine="GPU: RTX 3060, 12 GB").text().splitlines()
    assert lines[0] == "7B v0.1 in int8, 4 rows of 32,768 tokens in chunks of 512, all kept; GPU: RTX 3060, 12 GB"
    numbers = {line.split()[0]: float(line.split()[1]) for line in lines[1:6]}
    assert numbers["weights"] == 6.87 and numbers["cache"] == 16 and numbers["memory"] == 12
    assert abs(numbers["together"] - 6.87 - 16 - numbers["workspace"]) < 0.005
    assert lines[6].strip() == f"does not fit: {numbers['together'] - 12:.2f} GiB too much"
    assert "RTX 3060" not in lines[7] and "L4, 24 GB" not in lines[7] and "A100, 80 GB" in lines[7]
    assert "none of these machines" in Planner(tokens=131_072, batch=16, window=False).text()


def test_the_frames_are_all_that_the_controls_can_reach():
    frames = Planner().frames()
    assert len(frames) == 4 * len(BITS) * len(TOKENS) * len(BATCHES) * len(CHUNKS)
    for key, (weights, cache, gpu, laptop, marks) in frames.items():
        version, window, bits, tokens, batch, chunk = key.split("/")
        state = Planner(version, int(bits), int(tokens), int(batch), int(chunk), window == "1")
        assert list(state.parts().values()) == [weights, cache, gpu]
        assert list(replace(state, machine="laptop, 8 GiB").parts().values()) == [weights, cache, laptop]
        assert marks.replace("x", "0") == "".join("01"[fits] for fits in state.where().values())
        assert ("x" in marks) == (bits == "4")


def test_the_page_is_self_contained_small_and_always_the_same():
    state = Planner()
    page, (bundle, told) = state.html(), state._repr_mimebundle_()
    assert page == Planner().html() == bundle["text/html"] != Planner(bits=8).html()
    assert sum(len(part) for part in bundle.values()) < 150_000
    code = re.sub(r"base64,[^\"]*", "", page)
    assert not re.search(r"https?:|//|import |require|fetch|XMLHttp", code)
    assert "PLAN_" not in page and page.count("<script>") == page.count("</script>") == 1
    assert page.index("data:image/png;base64,") < page.index("<script>"), "the still picture stands where scripts are taken away"
    data = json.loads(re.search(r"const data = (\{.*\}), W = ", page)[1])
    assert data["frames"] == {key: list(frame) for key, frame in state.frames().items()}
    assert bundle["image/png"].startswith(PNG) and bundle["text/plain"] == repr(state) == state.text()
    assert told == {"image/png": {"alt": repr(state)}}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"version": "v1"}, "version is 'v1': expected one of v0.1, v0.2, v0.3"),
        ({"bits": 32}, "bits is 32: expected one of 16, 8, 4"),
        ({"tokens": 5}, "tokens is 5: expected one of 4096"),
        ({"batch": True}, "batch is True: expected one of 1, 4"),
        ({"window": 1}, "window is 1: expected one of True, False"),
        ({"machine": "T4"}, "machine is 'T4': expected one of GPU: RTX 4060, 8 GB"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_sentence(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Planner(**arguments)


def test_the_picture_of_memory_as_it_fills():
    picture = memory.filling([GIB * n for n in range(9)], [GIB * n + GIB // 4 for n in range(9)])
    assert isinstance(picture, Picture) and picture.png.startswith(PNG)
    lines = picture.text.splitlines()
    assert lines[-2] == "after    8.00 GiB read:    8.25 GiB held"
    assert lines[-1] == "held at the end: 1.03 times what was read; with a second copy 2.00"
    assert "MiB" in memory.filling([0, 2**20, 2**21], [0, 2**20, 2**21]).text


@pytest.mark.parametrize("format", ["hf", "native"])
def test_a_watched_load_is_the_load(tmp_path, format):
    config = replace(mock.narrow(VERSIONS["v0.1"], by=16), n_layers=3)
    mock.write(tmp_path, config, format, shards=2 if format == "hf" else 1, progress=False)
    model, tokenizer, read, held = memory.watch(tmp_path, device="cpu")
    plain, _ = mm.load(tmp_path, device="cpu")
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), plain.parameters(), strict=True))
    assert len(read) == len(held) == 1 + len(model.state_dict()) and read[0] == held[0] == 0
    assert read[-1] == sum(p.nbytes for p in model.parameters())
    assert tokenizer.vocab_size == 32_000 and read == sorted(read)
    assert memory.checkpoint.read_tensor.__module__ == "minimistral.checkpoint", "the loader is itself again"
