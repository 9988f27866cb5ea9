"""What one sees of a training: the log, its curve, and samples of what the model writes by now."""

import textwrap
import time
from dataclasses import dataclass, field


@dataclass(repr=False)
class Log:
    """losses[n] (nats a token) was the loss after steps[n] updates; `tokens` were predicted in `seconds`."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    finished: bool = False  # what the last call of watch(log) sees

    def recent(self, n: int = 10) -> float:
        """Mean of the last n losses."""
        return sum(self.losses[-n:]) / max(1, len(self.losses[-n:]))

    def __repr__(self):
        if not self.steps:
            return "no step yet"
        shown = sorted({len(self.steps) * n // 6 for n in range(6)})
        curve = ", ".join(f"{self.losses[n]:.2f} at {self.steps[n]}" for n in shown)
        speed = f"{self.tokens:,} tokens in {self.seconds:.0f} s, {self.tokens / max(self.seconds, 1e-9):,.0f} a second"
        return f"{len(self.steps)} steps; loss by step: {curve}; mean of the last 10: {self.recent():.3f}. {speed}."

    def picture(self):
        """The curve: each step's loss, and a running mean over a twentieth of the steps."""
        from minimistral.widgets.picture import BLUE, GREY, figure, finish

        half = len(self.losses) // 40
        parts = [self.losses[max(0, n - half) : n + half + 1] for n in range(len(self.losses))]
        made, ax = figure(7.2, 3.0)
        ax.plot(self.steps, self.losses, color=GREY, lw=0.8, label="each step")
        ax.plot(self.steps, [sum(part) / len(part) for part in parts], color=BLUE, lw=2, label=f"mean of {2 * half + 1}")
        ax.set(xlabel="step", ylabel="loss, nats a token")
        ax.set_title(f"{len(self.steps)} steps, loss {self.recent():.2f}", loc="left")
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False)
        return finish(made, repr(self))

    def _repr_mimebundle_(self, include=None, exclude=None):
        return self.picture()._repr_mimebundle_()


def sample(model, tokenizer, prompt: str = "", tokens: int = 40, temperature: float = 0.8, seed: int = 0) -> str:
    """The prompt and what the model goes on with, in one line. A prompt of "" starts a text."""
    from minimistral.generation import generate

    ids = tokenizer.encode(prompt, bos=True)
    new = generate(model, [ids], tokens, temperature=temperature, seed=seed, eos_id=tokenizer.eos_id).tokens[0]
    return " ".join(tokenizer.decode(ids + new).split())


class LiveCurve:
    """A watch for train.fit(): one picture, drawn again every `pause` seconds, and under it a sample of the model's text.

    samples  (step, text) of each, also to be read afterwards
    """

    def __init__(self, model, tokenizer=None, prompt: str = "", tokens: int = 40, pause: float = 10.0, seed: int = 0):
        self.model, self.tokenizer, self.prompt, self.tokens = model, tokenizer, prompt, tokens
        self.pause, self.seed, self.next, self.shown = pause, seed, 0.0, None
        self.samples: list[tuple[int, str]] = []

    def __call__(self, log: Log):
        if time.perf_counter() < self.next and not log.finished:
            return
        self.show(log)
        if self.tokenizer is not None:
            text = sample(self.model, self.tokenizer, self.prompt, self.tokens, seed=self.seed)
            self.samples.append((len(log.steps), text))
            self.say(textwrap.fill(f"step {len(log.steps)}: {text}", 100))
        self.next = time.perf_counter() + self.pause

    def show(self, log: Log):
        from IPython.display import display

        if self.shown is None:
            self.shown = display(log.picture(), display_id=True)
        else:
            self.shown.update(log.picture())

    def say(self, text: str):
        print(text)


class Samples(LiveCurve):
    """The same for a terminal: samples above the progress bar, no picture."""

    def show(self, log: Log):
        pass

    def say(self, text: str):
        from tqdm import tqdm

        tqdm.write(f"\n{text}\n")
