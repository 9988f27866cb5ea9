"""The small public parts that several modules share, each by itself: what they take, what they refuse, what they give back."""

import json
import signal
from pathlib import Path

import pytest
import torch
from helpers import small_config, small_model

import minimistral as mm
from minimistral import attention, checkpoint, config, generation, museum, progress, resume, roofline, room, tensorfiles, window
from minimistral.reach import runs
from minimistral.writing import write_folder


@pytest.mark.parametrize("given", [0, -3, 2.0, "4", True])
def test_a_window_is_none_or_a_whole_number_from_one_on(given):
    assert config.check_window(None) is config.check_window(1) is None
    with pytest.raises(mm.ConfigError, match=f"W is {given!r}: expected a whole number of at least 1"):
        config.check_window(given, "W")


def test_a_count_may_begin_elsewhere_than_at_one():
    config.check_count("n", 1)
    config.check_count("n", 0, least=0)
    for given, least in ((0, 1), (-1, 0), (True, 0), (1.0, 1)):
        with pytest.raises(mm.ConfigError, match=f"n is {given!r}: expected a whole number of at least {least}"):
            config.check_count("n", given, least)


def test_shapes_that_do_not_fit_are_named_in_one_sentence():
    q, k = torch.zeros(1, 4, 3, 8), torch.zeros(1, 2, 3, 8)
    assert attention.check_shapes(q, k, k) is None
    cases = [((q[0], k, k), "four dimensions"), ((q, k.long(), k), "floating"), ((q, k, k[:, :1]), "must be equal"),
             ((q[:, :3], k, k), "3 heads and k has 2"), ((q, k[..., :4], k[..., :4]), "must agree")]  # fmt: skip
    for given, said in cases:
        with pytest.raises(ValueError, match=said):
            attention.check_shapes(*given)


def test_prompts_settings_and_logits_are_refused_by_place():
    generation.check_prompts([[1, 2], [3]], vocab_size=4)
    with pytest.raises(ValueError, match="prompt 1 holds the id 4; this model's ids are 0 to 3"):
        generation.check_prompts([[1, 2], [4]], vocab_size=4)
    generation.check_sampling(0.7, 4, 1.0, 0.0, vocab_size=4)
    for given, name in (((-1, None, None, None), "temperature"), ((1, 5, None, None), "top_k"), ((1, None, 0, None), "top_p"),
                        ((1, None, None, 2), "min_p")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name} is"):
            generation.check_sampling(*given, vocab_size=4)
    logits = torch.zeros(3, 5)
    logits[1, 2] = -torch.inf
    generation.check_logits(logits)  # one id left out is no fault
    logits[1] = torch.nan
    with pytest.raises(ValueError, match="row 1 of the logits"):
        generation.check_logits(logits)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One model in both formats: native, and Hugging Face's in three shards."""
    model, parent = small_model(window=4), tmp_path_factory.mktemp("models")
    mm.save(model, parent / "native")
    checkpoint.export(model, parent / "hf", shards=3)
    return model, parent / "native", parent / "hf"


def test_a_folder_is_read_step_by_step(folders):
    model, native, hf = folders
    assert (checkpoint.find_format(native), checkpoint.find_format(hf)) == ("native", "hf")
    files = checkpoint.weight_files(hf, "hf")
    assert [file.name for file in files] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    places, total = checkpoint.read_index(hf / checkpoint.INDEX)
    assert set(places.values()) == {file.name for file in files} and total == 4 * model.n_parameters()
    found = checkpoint.check_tensors(hf, model.config, "hf", files)
    assert found.keys() == model.state_dict().keys()
    assert sum(place.nbytes for place in found.values()) == total
    with pytest.raises(mm.CheckpointError, match="lacks"):
        checkpoint.check_tensors(hf, model.config, "hf", files[:1] + files[2:])


def test_an_index_names_files_beside_it_only(tmp_path):
    path = tmp_path / checkpoint.INDEX
    path.write_text(json.dumps({"weight_map": {"norm.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(mm.CheckpointError, match="a shard lies beside its index"):
        checkpoint.read_index(path)


def test_only_wq_and_wk_have_rows_in_another_order():
    c = small_config()
    heads = {name: checkpoint.turned_heads(name, c) for name in checkpoint.expected_shapes(c) if name.startswith("layers.0.")}
    expected = {"layers.0.attention.wq.weight": c.n_heads, "layers.0.attention.wk.weight": c.n_kv_heads}
    assert {name: n for name, n in heads.items() if n} == expected and c.n_heads != c.n_kv_heads


def test_too_little_room_is_said_with_both_numbers(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "memory", lambda device: 2**30)
    checkpoint.require_memory("It needs", 2**30, torch.device("cpu"))
    with pytest.raises(mm.CheckpointError, match="It needs 2.00 GiB of memory, 1.00 GiB are available on cpu. Wait."):
        checkpoint.require_memory("It needs", 2**31, torch.device("cpu"), "Wait.")
    monkeypatch.setattr(room, "disk", lambda folder: 2**30)
    room.require_disk(tmp_path, 2**30)
    with pytest.raises(ValueError, match="2.00 GiB .* more, and its disk has 1.00 GiB free"):
        room.require_disk(tmp_path, 2**31)


def test_a_pth_of_any_name_tells_where_its_tensors_lie(tmp_path):
    tensors = {name: tensor.detach() for name, tensor in small_model().state_dict().items()}
    write_folder(tmp_path, small_config(), tensors, "pth")
    odd = (tmp_path / "consolidated.00.pth").rename(tmp_path / "weights.bin")
    found = tensorfiles.pth_header(odd)
    assert found.keys() == tensors.keys()
    assert all(tensorfiles.read(found[name]).equal(tensor) for name, tensor in tensors.items())


def test_the_exhibit_opens_as_hugging_face_with_the_same_logits(tmp_path):
    model, tokenizer = mm.load_tiny()
    museum.as_hugging_face(model, tokenizer, tmp_path)
    assert checkpoint.find_format(tmp_path) == "hf"
    again, words = mm.load(tmp_path, device="cpu")
    ids = torch.tensor([tokenizer.encode("Once upon a time", bos=True)])
    assert again(ids).equal(model(ids)) and words.vocab_size == tokenizer.vocab_size


def test_blocks_come_back_where_they_were_taken():
    x = torch.arange(2 * 3 * 10 * 4.0).view(2, 3, 10, 4)
    for blocks in (window.Blocks(0, 4, 2, 4), window.Blocks(4, 3, 1, 4, True), window.Blocks(1, 3, 2, 4, True)):
        rows = blocks.take(x)
        assert rows.shape == (2 * blocks.n, 3, blocks.length, 4)
        assert blocks.back(rows).equal(blocks.view(x))
    assert window.Blocks(1, 3, 1, 4, True).take(x)[0, 0, :, 0].tolist() == x[0, 0, [3, 2, 1], 0].tolist()


def test_a_record_of_runs_is_read_as_it_was_written(tmp_path):
    run = dict.fromkeys(runs.KEYS, 0) | {"layers": 2, "window": (3, None), "counts": [[1, 5, 6]]}
    record = {"experiment": "hybrid", "runs": [run, run]}
    data = runs.to_json(record)
    (tmp_path / "hybrid.json").write_bytes(data)
    assert runs.read(tmp_path / "hybrid.json") == record and data.count(b"\n") == 4


def test_a_checkpoint_brings_every_part_back(tmp_path):
    model = small_model()
    kept = resume.TrainingCheckpoint(tmp_path, {"lr": 1.0}, model=model)
    assert "no checkpoint yet" in str(kept)
    kept.write(progress.Log([0, 1], [3.0, 2.0]), torch.get_rng_state())
    before, at = {name: x.clone() for name, x in model.state_dict().items()}, torch.rand(1)
    with torch.no_grad():
        model.norm.weight.zero_()
    log = kept.read()
    assert log.losses == [3.0, 2.0] and "of step 2" in str(kept)
    assert all(model.state_dict()[name].equal(x) for name, x in before.items()) and torch.rand(1) == at
    with pytest.raises(resume.TrainingError, match="lr was 1.0 and is 2.0"):
        resume.TrainingCheckpoint(tmp_path, {"lr": 2.0}, model=model).read()


def test_the_stop_button_waits_once_and_gives_ctrl_c_back():
    before = signal.getsignal(signal.SIGINT)
    with resume.stop_button() as pressed:
        assert not pressed
        signal.raise_signal(signal.SIGINT)
        assert pressed
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_samples_are_said_in_a_terminal_without_a_picture(capsys):
    model, tokenizer = mm.load_tiny()
    watch = progress.Samples(model, tokenizer, "Once upon", tokens=4, pause=0)
    watch(progress.Log([0, 1], [3.0, 2.0]))
    ((step, text),) = watch.samples
    out, err = capsys.readouterr()
    assert step == 2 and text.startswith("Once upon") and text in out + err and watch.shown is None


def test_each_gpu_says_where_its_figures_come_from():
    for gpu in roofline.GPUS.values():
        assert isinstance(gpu, roofline.Gpu) and gpu.source
        assert gpu.bandwidth < gpu.flops and 10**10 < gpu.memory < 10**12


def test_programs_are_counted_as_the_harness_asks(monkeypatch):
    pytest.importorskip("lm_eval")
    from minimistral import harness, sandbox

    def run(code, **_):
        return sandbox.Outcome("good" in code, "passed" if "good" in code else "failed")

    monkeypatch.setattr(sandbox, "run", run)
    ours = harness.CodeEval()
    scores, _ = ours.compute(["assert f()"], [["good", "bad"]], k=(1, 2, 3))
    assert scores == {"pass@1": 0.5, "pass@2": 1.0}  # of two programs no three can be drawn
    assert [outcome.what for outcome in ours.seen] == ["passed", "failed"]


def test_nothing_is_left_of_a_file_that_could_not_be_finished(tmp_path):
    from minimistral.files import write_all

    def half(path: Path):
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OSError, match="full"):
        write_all({tmp_path / "a": b"new", tmp_path / "b": half})
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"
