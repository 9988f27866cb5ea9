"""A conversation whose ring buffer is carried from turn to turn: each turn feeds only what is new.

    chat = Chat(model, tokenizer, system="Answer in one sentence.")
    for piece in chat.say("Who was Ada Lovelace?"):
        print(piece, end="")

The model's own ids of its answers are kept, not the text encoded again, which could give others. Where the template changes
what was already read (v2 and v3 move the system prompt into the last user turn), the conversation is read again from its start.
"""

import time
from collections.abc import Iterator

import torch

from minimistral import room
from minimistral.generation import decode
from minimistral.hybrid import cache_for
from minimistral.model import Mistral
from minimistral.tokenizer import Tokenizer


class Chat:
    """One conversation with one model.

    messages  what was said, as encode_chat takes it. The last answer is there as soon as say() ends, also where it was cut off
    reused    how many tokens of the last turn's prompt were in the cache already, of how many: (reused, whole)
    speed     tokens a second of the last answer

    Raises ValueError for a message that is no text, or too long for the memory there is.
    """

    def __init__(self, model: Mistral, tokenizer: Tokenizer, system: str | None = None, max_new_tokens: int = 512,
                 chunk_size: int = 1024, **sampling):
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.chunk_size, self.sampling = max_new_tokens, chunk_size, sampling
        self.messages = [] if system is None else [{"role": "system", "content": system}]
        self.answers: list[list[int]] = []  # ids, as the model wrote them
        weight = model.output.weight
        self.cache = cache_for(model.config, device=weight.device, dtype=weight.dtype)
        self.fed: list[int] = []  # what the cache has read
        self.reused, self.speed = (0, 0), 0.0

    def ids(self, messages: list[dict]) -> list[int]:
        """The conversation as the model reads it, its own answers in its own ids."""
        answers = iter(self.answers)
        ids = [self.tokenizer.bos_id]
        for role, turn in self.tokenizer.chat_turns(messages):
            ids += turn if role == "user" else [*next(answers), self.tokenizer.eos_id]
        return ids

    def say(self, text: str) -> Iterator[str]:
        """Yield the answer piece by piece. To stop it, stop asking: what was said so far is the answer."""
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self.ids(messages)  # before anything changes, so that a message that is refused leaves no trace
        if ids[: len(self.fed)] != self.fed or len(ids) == len(self.fed):
            self._forget()
        self._check_room(len(ids) - len(self.fed))
        return self._answer(messages, ids)

    def _answer(self, messages, ids):
        self.reused, new, began = (len(self.fed), len(ids)), [], None
        steps = decode(self.model, [ids[len(self.fed) :]], self.max_new_tokens, chunk_size=self.chunk_size, cache=self.cache,
                       eos_id=self.tokenizer.eos_id, **self.sampling)  # fmt: skip

        def heard():
            nonlocal began
            for (token,), _ in steps:
                began = began or time.perf_counter()
                if token != self.tokenizer.eos_id:
                    new.append(token)
                yield token

        whole = False
        try:
            yield from self.tokenizer.stream(heard(), after=ids)
            whole = True
        except GeneratorExit:
            raise
        except BaseException:  # Ctrl-C, or no memory left, in the middle of a pass: the layers no longer agree
            self._forget()
            raise
        finally:
            steps.close()
            self.speed = (len(new) - 1) / (time.perf_counter() - began) if len(new) > 1 else 0.0
            position = int(self.cache.position[0])
            self.fed = (ids + new + [self.tokenizer.eos_id])[:position]
            answer = self.tokenizer.decode(new)
            if whole or answer:
                self.messages = [*messages, {"role": "assistant", "content": answer or " "}]
                self.answers.append(new)

    def _forget(self):
        with torch.inference_mode():  # in which a growing cache has made its tensors
            self.cache.reset()
        self.fed = []

    def _check_room(self, T: int):
        """Refuse a message of T tokens that could not be read here, with numbers, before anything is fed."""
        config, chunk = self.model.config, min(T, self.chunk_size)
        needed = 4 * chunk * (6 * config.dim + 3 * config.hidden_dim)  # a block's intermediate results, in float32 at most
        for part in self.cache.parts:
            if part.window is None:  # it grows: keys and values of every token, for as long as it doubles
                needed += 2 * T * part.n_bytes() // part.size
        free = room.memory(self.model.output.weight.device)
        if free is not None and needed > free:
            raise ValueError(
                f"this message makes {T:,} tokens to read: that takes about {room.gib(needed)} and {room.gib(free)} are free. "
                "Say it in parts."
            )
