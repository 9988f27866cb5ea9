"""Our adapter for lm-evaluation-harness against its own for transformers, on the same random weights; and code tasks."""

import json
import os
import random

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, at import
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import minimistral as mm
from minimistral import harness, sandbox
from minimistral.cli import main

WORDS = "river stone lamp garden paper winter clock bread music window letter forest horse kitchen storm".split()
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, intermediate_size=48,
             vocab_size=32000, sliding_window=6, rms_norm_eps=1e-5)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder with random weights and the real tokenizer of v0.1, whose window every question crosses."""
    from transformers import MistralConfig, MistralForCausalLM

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(mm.Tokenizer.from_version("v1").path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    """The harness's own adapter on the same folder, with transformers' own tokenizer of the same vocabulary."""
    from lm_eval.models.huggingface import HFLM
    from transformers import LlamaTokenizer, MistralForCausalLM
    from transformers.tokenization_utils_base import generate_merges

    sp = mm.Tokenizer.from_version("v1").sp
    vocab = {sp.id_to_piece(n): n for n in range(sp.get_piece_size())}
    words = LlamaTokenizer(vocab=vocab, merges=generate_merges(vocab), pad_token="</s>", add_bos_token=True)
    model = MistralForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return HFLM(pretrained=model, tokenizer=words, batch_size=4, device="cpu", max_length=512)


@pytest.fixture(scope="module")
def tasks(folder, tmp_path_factory):
    """50 questions of each kind. Half of the right answers are what the model says, so that a score is neither 0 nor 1."""
    place = tmp_path_factory.mktemp("tasks")
    rng = random.Random(1)
    model, tokenizer = mm.load(folder, device="cpu", dtype=torch.float32)
    choices, answers = [], []
    for n in range(50):
        question = " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 20)))
        options = rng.sample(WORDS, 3) + [" ".join(rng.sample(WORDS, 2))]
        choices.append({"question": question, "options": options, "answer": rng.randrange(4)})
        ids = tokenizer.encode(f"Question: {question}\nAnswer:", bos=True)
        said = tokenizer.decode(ids + mm.generate(model, [ids], max_new_tokens=5).tokens[0])[len(tokenizer.decode(ids)) :]
        answers.append({"question": question, "answer": said.strip() if n % 2 else "something else"})
    for name, rows in (("choices", choices), ("answers", answers)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = "dataset_path: json\ntest_split: test\ndataset_kwargs:\n  data_files:\n    test: {file}\n"
    (place / "choices.yaml").write_text(
        "task: local_choices\noutput_type: multiple_choice\n" + common.format(file=place / "choices.jsonl")
        + 'doc_to_text: "Question: {{question}}\\nAnswer:"\ndoc_to_choice: "{{options}}"\ndoc_to_target: answer\n'
        "metric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    )
    (place / "answers.yaml").write_text(
        "task: local_answers\noutput_type: generate_until\n" + common.format(file=place / "answers.jsonl")
        + 'doc_to_text: "Question: {{question}}\\nAnswer:"\ndoc_to_target: answer\n'
        "generation_kwargs:\n  until: []\n  max_gen_toks: 5\n  do_sample: false\n"
        "filter_list:\n  - name: strip\n    filter:\n      - function: remove_whitespace\n      - function: take_first\n"
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
    )  # fmt: skip
    return place


def test_the_same_scores_as_the_harness_own_adapter(folder, theirs, tasks):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    names = ["local_choices", "local_answers"]
    model, tokenizer = mm.load(folder, device="cpu", dtype=torch.float32)
    ours = harness.evaluate(model, tokenizer, names, include=tasks, batch_size=4)
    other = simple_evaluate(theirs, tasks=names, task_manager=TaskManager(include_path=str(tasks)), bootstrap_iters=0)
    for name in names:
        assert ours["n-samples"][name]["effective"] == 50
        mine = {key: value for key, value in ours["results"][name].items() if "stderr" not in key}
        assert mine == {key: value for key, value in other["results"][name].items() if "stderr" not in key}
        for a, b in zip(ours["samples"][name], other["samples"][name], strict=True):
            assert a["doc"] == b["doc"] and a["target"] == b["target"]
            for (x,), (y,) in zip(a["resps"], b["resps"], strict=True):
                if name == "local_choices":  # (log-likelihood, whether greedy would say it)
                    assert x[0] == pytest.approx(y[0], abs=1e-3) and x[1] == y[1]
                else:
                    assert x.strip() == y.strip()
    assert 0.4 <= ours["results"]["local_answers"]["exact_match,strip"] <= 0.6
    assert 0 < ours["results"]["local_choices"]["acc,none"] < 1


def test_rolling_likelihood_and_long_texts(folder, theirs):
    from lm_eval.api.instance import Instance

    model, tokenizer = mm.load(folder, device="cpu", dtype=torch.float32)
    ours = harness.Minimistral(model, tokenizer, batch_size=3, max_length=16)
    theirs._max_length, before = 16, theirs._max_length
    texts = [" ".join(WORDS[:n]) for n in (2, 15)]
    rolling = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    long = [Instance("loglikelihood", {}, (" ".join(WORDS), " river"), 0), Instance("loglikelihood", {}, ("", "river"), 1)]
    try:
        assert ours.loglikelihood_rolling(rolling) == pytest.approx(theirs.loglikelihood_rolling(rolling), abs=1e-3)
        for mine, other in zip(ours.loglikelihood(long), theirs.loglikelihood(long), strict=True):
            assert mine[0] == pytest.approx(other[0], abs=1e-3) and mine[1] == other[1]
    finally:
        theirs._max_length = before


def test_an_answer_ends_where_a_stop_word_begins(folder):
    from lm_eval.api.instance import Instance

    model, tokenizer = mm.load(folder, device="cpu", dtype=torch.float32)
    ours = harness.Minimistral(model, tokenizer, batch_size=2)
    prompts = ["The river and", "Once", "A lamp"]

    def answers(**wanted):
        return ours.generate_until([Instance("generate_until", {}, (p, wanted | {"max_gen_toks": 12}), n)
                                    for n, p in enumerate(prompts)], disable_tqdm=True)  # fmt: skip

    whole = answers(until=[])
    for prompt, text in zip(prompts, whole, strict=True):  # text as one stream, with the space it opens with
        ids = tokenizer.encode(prompt, bos=True)
        new = mm.generate(model, [ids], max_new_tokens=12).tokens[0]
        assert prompt + text == tokenizer.decode(ids + new)
    stops = [text[5:7] for text in whole]
    for stop, text, cut in zip(stops, whole, [answers(until=[stop])[n] for n, stop in enumerate(stops)], strict=True):
        assert cut == text.split(stop)[0]


CODE = """task: local_code
unsafe_code: true
output_type: generate_until
dataset_path: json
test_split: test
dataset_kwargs:
  data_files:
    test: {place}/code.jsonl
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{test}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 3, do_sample: false}}
filter_list:
  - name: create_test
    filter:
      - function: custom
        filter_fn: !function local_code.build
metric_list:
  - metric: !function local_code.pass_at_1
    aggregation: mean
    higher_is_better: true
"""
HELPER = """import evaluate
code_eval = evaluate.load("code_eval")

def build(resps, docs):
    return [[doc["program"]] for resp, doc in zip(resps, docs)]

def pass_at_1(references, predictions):
    return code_eval.compute(references=references, predictions=predictions, k=[1])[0]["pass@1"]
"""


@pytest.fixture()
def code(tmp_path):
    """A task like HumanEval, whose programs are given: right, wrong, without an end, and one that writes a file."""
    writes = f"open({str(tmp_path / 'evil')!r}, 'w').write('x')"
    programs = ["def f(x): return x + 1", "def f(x): return x", "while True: pass", writes]
    rows = [{"prompt": "def f(x):", "program": program, "test": "assert f(1) == 2"} for program in programs]
    (tmp_path / "code.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "code.yaml").write_text(CODE.format(place=tmp_path))
    (tmp_path / "local_code.py").write_text(HELPER)
    return tmp_path


def test_code_is_run_only_when_asked_for(folder, code):
    model, tokenizer = mm.load(folder, device="cpu", dtype=torch.float32)
    with pytest.raises(ValueError, match="runs programs that the model writes: say run_code=True"):
        harness.evaluate(model, tokenizer, ["local_code"], include=code)


def test_programs_run_shut_in_and_the_report_says_what_happened(folder, code):
    model, tokenizer = mm.load(folder, device="cpu", dtype=torch.float32)
    try:
        report = harness.evaluate(model, tokenizer, ["local_code"], include=code, run_code=True)
    except sandbox.SandboxError as error:  # a kernel without namespaces: refused, with the way out named
        assert "unsafe=True" in str(error)
        report = harness.evaluate(model, tokenizer, ["local_code"], include=code, run_code=True, unsafe=True)
    else:
        assert not (code / "evil").exists()
        assert any("Read-only file system" in what for what in report["programs"])
    assert report["results"]["local_code"]["pass_at_1,create_test"] == 0.25
    assert report["programs"]["passed"] == 1 and report["programs"]["out of time (3 s)"] == 1
    assert report["programs"]["AssertionError"] == 1 and sum(report["programs"].values()) == 4


def test_an_unknown_task_is_named_with_its_neighbours(folder, capsys):
    assert main(["eval", str(folder), "--tasks", "humanevil"]) == 2
    assert "no task 'humanevil'; did you mean humaneval" in capsys.readouterr().err


def test_the_command_prints_and_writes_a_report(folder, tasks, tmp_path, capsys):
    out = tmp_path / "report.json"
    asked = ["eval", str(folder), "--tasks", "local_choices", "--include", str(tasks), "--limit", "3"]
    assert main([*asked, "--out", str(out)]) == 0
    assert "local_choices" in capsys.readouterr().out
    assert json.loads(out.read_text())["n-samples"]["local_choices"]["effective"] == 3


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "minimistral.harness")
    with pytest.raises(ValueError, match=r"pip install 'minimistral\[eval\]'"):
        importlib.import_module("minimistral.harness")
