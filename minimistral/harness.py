"""Public benchmarks: our models under lm-evaluation-harness, and code that they write run in our sandbox.

    report = harness.evaluate(model, tokenizer, ["mmlu", "gsm8k"], limit=50)

Needs the optional extra: pip install 'minimistral[eval]'. The tasks' questions come from the Hugging Face hub (or from a
folder of your own tasks, `include`).
"""

import difflib
from collections import Counter
from contextlib import contextmanager
from unittest import mock

from minimistral import evaluation, sandbox
from minimistral.generation import decode

try:
    from lm_eval.api.model import TemplateLM
except ImportError:
    raise ValueError("lm-evaluation-harness is not installed: pip install 'minimistral[eval]'") from None

MAX_LENGTH = 8192  # tokens: what 7B was trained on; longer questions lose their beginning


class Minimistral(TemplateLM):
    """A Mistral and its tokenizer as the harness wants a model.

    As its own adapter for transformers does, it puts a bos before every text, drops the beginning of what is too long, and cuts
    an answer where one of the task's stop words begins. Unlike that one it keeps the space or indent an answer opens with.
    """

    def __init__(self, model, tokenizer, batch_size: int = 8, max_length: int = MAX_LENGTH, max_gen_toks: int = 256):
        super().__init__()
        self.model, self.words = model, tokenizer  # `tokenizer` means one of transformers' to the harness
        self.batch_size, self.max_length, self.max_gen_toks = batch_size, max_length, max_gen_toks

    eot_token_id = property(lambda self: self.words.eos_id)
    prefix_token_id = property(lambda self: self.words.bos_id)

    def tok_encode(self, string, add_special_tokens=None, **_):
        return self.words.encode(string, bos=add_special_tokens is not False)

    def _loglikelihood_tokens(self, requests, **_):
        from tqdm.auto import tqdm

        pairs = []
        for _, context, continuation in requests:
            spare = len(context) + len(continuation) - self.max_length - 1
            pairs.append((context[max(0, spare) :], continuation))
        if short := [pair for pair in pairs if not pair[0]]:
            raise ValueError(f"a continuation of {len(short[0][1])} tokens leaves no room in max_length {self.max_length}.")
        bar = tqdm(pairs, desc="log-likelihoods", unit="text")
        return evaluation.loglikelihoods(self.model, bar, self.batch_size)

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        from lm_eval import utils

        totals = []
        for (text,) in (request.args for request in requests):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text), prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            pairs = [utils.make_disjoint_window(window) for window in windows]
            totals.append(sum(score for score, _ in evaluation.loglikelihoods(self.model, pairs, self.batch_size)))
        return totals

    def generate_until(self, requests, disable_tqdm=False):
        from tqdm.auto import tqdm

        answers: list[str | None] = [None] * len(requests)
        alike: dict[str, list[int]] = {}  # requests that are drawn alike share batches
        for n, request in enumerate(requests):
            alike.setdefault(repr(sorted(request.args[1].items())), []).append(n)
        with tqdm(total=len(requests), desc="answers", unit="text", disable=disable_tqdm) as bar:
            for numbers in alike.values():
                for first in range(0, len(numbers), self.batch_size):
                    batch = numbers[first : first + self.batch_size]
                    texts = self._answers([requests[n].args[0] for n in batch], requests[batch[0]].args[1])
                    for n, text in zip(batch, texts, strict=True):
                        answers[n] = text
                    bar.update(len(batch))
        return answers

    def _answers(self, texts: list[str], wanted: dict) -> list[str]:
        from lm_eval.models.utils import normalize_gen_kwargs

        wanted = normalize_gen_kwargs(wanted, self.max_gen_toks)
        stops = [stop for stop in wanted.get("until", []) if stop]
        longest = wanted["max_gen_toks"]
        if longest >= self.max_length:
            raise ValueError(f"the task wants answers of {longest} tokens, and max_length is {self.max_length}.")
        prompts = [self.tok_encode(text)[-(self.max_length - longest) :] for text in texts]
        drawing = {"temperature": wanted.get("temperature", 0.0), "top_p": wanted.get("top_p"), "top_k": wanted.get("top_k")}
        before = [len(self.words.decode(prompt)) for prompt in prompts]
        ids, said, open_rows = [list(prompt) for prompt in prompts], [""] * len(prompts), set(range(len(prompts)))
        for new, _ in decode(self.model, prompts, longest, eos_id=self.eot_token_id, **drawing):
            for row in sorted(open_rows):
                if new[row] is None or new[row] == self.eot_token_id:
                    open_rows.discard(row)
                    continue
                ids[row].append(new[row])
                said[row] = self.words.decode(ids[row])[before[row] :]
                if any(stop in said[row] for stop in stops):
                    open_rows.discard(row)
            if not open_rows:
                break
        for stop in stops:
            said = [text.split(stop)[0] for text in said]
        return said


class CodeEval:
    """What the harness's tasks call "code_eval": programs that a model wrote, against their tests; here in the sandbox."""

    def __init__(self, unsafe: bool = False):
        self.unsafe, self.seen = unsafe, []  # what happened to each program, in order

    def compute(self, references: list[str], predictions: list[list[str]], k=(1,), timeout: float = 3.0, **_):
        counts = []
        for tests, programs in zip(references, predictions, strict=True):
            outcomes = [sandbox.run(f"{program}\n{tests}", timeout=timeout, unsafe=self.unsafe) for program in programs]
            self.seen += outcomes
            counts.append((len(programs), sum(outcome.passed for outcome in outcomes)))
        scores = {
            f"pass@{of}": sum(evaluation.pass_at_k(n, passed, of) for n, passed in counts) / len(counts)
            for of in k
            if all(n >= of for n, _ in counts)
        }
        return scores, {}


@contextmanager
def _our_code_eval(ours: CodeEval):
    """While tasks are loaded: evaluate.load("code_eval") gives ours, not one that runs programs in this process's name."""
    import evaluate as metrics

    def load(name, *args, **kwargs):
        return ours if name == "code_eval" else real(name, *args, **kwargs)

    real = metrics.load
    with mock.patch.object(metrics, "load", load):
        yield


def evaluate(model, tokenizer, tasks: list[str], *, limit: int | None = None, include=None, batch_size: int = 8,
             num_fewshot: int | None = None, run_code: bool = False, unsafe: bool = False) -> dict:
    """Run tasks of the harness: -> {"results": {task: {metric: value}}, "programs": {what happened: how often}, ...}.

    limit     only so many questions of each task
    include   a folder with tasks of your own (YAML files, as the harness reads them)
    run_code  allow tasks that run what the model wrote (humaneval, mbpp), shut in; unsafe: also where it cannot be shut in

    Raises ValueError for tasks there are not, and for code where it was not allowed or cannot be shut in: before any question.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if include is None else str(include))
    for name in tasks:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            raise ValueError(
                f"the harness has no task {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ".")
                + " `lm-eval ls tasks` lists them all."
            )  # fmt: skip
    ours = CodeEval(unsafe)
    if run_code:
        sandbox.run("", unsafe=unsafe)  # or refuse now
    adapter = Minimistral(model, tokenizer, batch_size)
    with _our_code_eval(ours):
        try:
            done = simple_evaluate(adapter, tasks=list(tasks), limit=limit, task_manager=manager, num_fewshot=num_fewshot,
                                   confirm_run_unsafe_code=run_code, bootstrap_iters=0, log_samples=True)  # fmt: skip
        except ValueError as error:
            if "marked as unsafe" not in str(error):
                raise
            raise ValueError(
                f"{', '.join(tasks)} runs programs that the model writes: say run_code=True (--run-code) to allow it, in a "
                "process that is shut in."
            ) from None
    programs = dict(Counter(outcome.what for outcome in ours.seen))
    return {"results": done["results"], "n-samples": done["n-samples"], "programs": programs, "samples": done["samples"]}
