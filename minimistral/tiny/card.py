"""The model card of the tiny model, measured: `python -m minimistral.tiny.card` prints it, in about a minute on two cores.

--write puts it into minimistral/tiny/model/CARD.md, where a test holds it against this measurement.
"""

import argparse
import json
import math
import re
from collections import Counter

import torch

from minimistral.checkpoint import load
from minimistral.files import write
from minimistral.generation import generate
from minimistral.tiny import looks, stories, train

CARD = train.FOLDER / "CARD.md"
COUNTED = 1500  # stories


class Bigram:
    """The next token from the last one alone, counted: what a model must beat to be worth its layers.

    P(b | a) = max(count(a b) - d, 0) / count(a) + (what d took away) * P(b), with d = 0.75 (absolute discounting).
    """

    def __init__(self, texts: list[list[int]], vocab_size: int, discount: float = 0.75):
        self.pairs = Counter(pair for ids in texts for pair in zip(ids, ids[1:], strict=False))
        self.firsts, self.kinds = Counter(), Counter()
        for (first, _), times in self.pairs.items():
            self.firsts[first] += times
            self.kinds[first] += 1
        single = Counter(token for ids in texts for token in ids[1:])
        total = single.total() + vocab_size
        self.single = [(single[token] + 1) / total for token in range(vocab_size)]
        self.discount = discount

    def probability(self, first: int, second: int) -> float:
        seen = self.firsts[first]
        if not seen:
            return self.single[second]
        kept = max(self.pairs[first, second] - self.discount, 0) / seen
        return kept + self.discount * self.kinds[first] / seen * self.single[second]

    def loss(self, texts: list[list[int]]) -> float:
        """Mean of -log P over the tokens after the first, in nats."""
        steps = [pair for ids in texts for pair in zip(ids, ids[1:], strict=False)]
        return -sum(math.log(self.probability(*pair)) for pair in steps) / len(steps)


@torch.no_grad()
def name_loss(model, tokenizer) -> tuple[float, float]:
    """Mean loss on the name after "Once upon a time there was a girl called", and what no model can get below, in nats.

    The grammar draws that name evenly among the girls: its entropy is the logarithm of their number.
    """
    girls = [str(child) for child in stories.CHILDREN if child.sort == "girl"]
    prompt = "Once upon a time there was a girl called"
    losses = []
    for name in girls:
        whole = tokenizer.encode(f"{prompt} {name}.", bos=True)
        span = looks.answer_span(tokenizer, prompt, name)
        logprobs = torch.log_softmax(model(torch.tensor([whole]))[0], -1)
        losses.append(-sum(logprobs[n - 1, whole[n]].item() for n in span))
    return sum(losses) / len(losses), math.log(len(girls))


def keeps_its_cast(text: str) -> bool:
    """Whether nobody turns up in a story but those it is about: two, or three who play hide-and-seek."""
    people = {str(person) for group in (stories.CHILDREN, stories.ANIMALS) for person in group}
    named = people & set(re.findall(r"\w+", text.replace("Ivy climbed up the grey stones", "")))  # the plant
    return len(named) <= 2 + ("hide-and-seek" in text)


def measure(n_stories: int = 100) -> dict:
    """All that the card says of the shipped model, on stories that it has not seen."""
    model, tokenizer = load(train.FOLDER, device="cpu", dtype=torch.float32)
    held_out = [tokenizer.encode(text, bos=True, eos=True) for text in stories.corpus(n_stories, train.HELD_OUT)]
    seen = [tokenizer.encode(text, bos=True, eos=True) for text in stories.corpus(COUNTED, 1)]
    near, far = [0, 0], [0, 0]
    for distance, (right, of) in train.recall(model, tokenizer, n_stories).items():
        tally = near if int(distance.split("-")[1]) < model.config.sliding_window else far
        tally[0] += right
        tally[1] += of
    name, least = name_loss(model, tokenizer)
    told = generate(model, [tokenizer.encode("", bos=True)] * n_stories, 300, temperature=0.6, seed=1)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "perplexity": math.exp(train.held_out_loss(model, tokenizer, n_stories)),
        "bigram": math.exp(Bigram(seen, tokenizer.vocab_size).loss(held_out)),
        "name": math.exp(name),
        "name_least": math.exp(least),
        "near": near[0] / near[1],
        "far": far[0] / far[1],
        "cast": sum(keeps_its_cast(tokenizer.decode(ids)) for ids in told.tokens) / n_stories,
    }


def text(found: dict) -> str:
    """The card in Markdown."""
    record = json.loads((train.FOLDER / "training.json").read_text(encoding="utf-8"))
    config = train.CONFIG
    stages = "".join(
        f"| stage: {stage['name']} | {stage['steps']:,} steps; rows of {stage['length']} tokens: {stage['stories']} of "
        f"stories, {stage['drills']} of drills{'; shown where to look' * bool(stage['looks'])} |\n"
        for stage in record["stages"]
    )
    least = f"{found['name_least']:.0f}"
    return f"""# The tiny model

A Mistral that tells stories for children, made for this course: {found['parameters']:,} parameters in {config.n_layers} layers
of {config.dim}, with {config.n_heads} query heads on {config.n_kv_heads} key heads of {config.head_dim}, {config.vocab_size:,}
tokens and a window of {config.sliding_window}.

| | |
|---|---|
| data | what `minimistral/tiny/stories.py` tells; no story is seen twice, no other text is used |
| made by | `python -m minimistral.tiny.train`, seed {record['seed']}, PyTorch {record['torch']} |
{stages}\
| perplexity a token, new stories | {found['perplexity']:.2f}; a bigram counted on {COUNTED:,} stories: {found['bigram']:.1f} |
| perplexity of a name, drawn evenly among {least} | {found['name']:.1f}; {least} is the least there can be |
| told less than {config.sliding_window} tokens before, and named rightly | {found['near']:.0%} |
| told further back, and named rightly | {found['far']:.0%} |
| stories of its own, at temperature 0.6, in which nobody turns up but those they are about | {found['cast']:.0%} |

All measured by `python -m minimistral.tiny.card`, in about a minute. The entropy of whole stories is not known: the grammar
throws away what does not fit, so only single choices, such as a name, have one that can be written down.

*Shown where to look*: four heads were trained, beside the words, to attend to the token that decides the next word
(`minimistral/tiny/looks.py`). In the last two stages nothing was shown, and where it looks when it is
used is its own affair.

It goes on with a story in the manner of those it knows, and now and then it forgets who is in it. It answers no questions,
follows no instructions, knows a few plots and nothing else, in plain English.

Licence: Apache-2.0, weights and stories.
"""


def main(arguments=None):
    """Measure, print the card and, if asked to, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {CARD.name} beside the model")
    card = text(measure())
    print(card)
    if parser.parse_args(arguments).write:
        write(CARD, card.encode())


if __name__ == "__main__":
    main()
