"""Text to ids and back: SentencePiece, and Mistral's chat templates.

The real tokenizer files come inside the mistral-common package, so nothing has to be downloaded. The encoding of chats is
our own, short enough to read; tests hold it against mistral-common's, id for id.
"""

from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

FILES = {
    "v1": "tokenizer.model.v1",  # 7B v0.1 and v0.2
    "v2": "mistral_instruct_tokenizer_240216.model.v2",
    "v3": "mistral_instruct_tokenizer_240323.model.v3",  # 7B v0.3
}
ROLES = ("system", "user", "assistant")


class TokenizerError(ValueError):
    """A file that is no tokenizer, or a conversation that no template can hold."""


class Tokenizer:
    """A SentencePiece model and the chat template that belongs to it.

    path     a tokenizer.model file
    version  "v1", "v2" or "v3"; None: "v3" if the file knows [INST] as a control id, else "v1" (for chats v2 and v3 agree)
    """

    def __init__(self, path, version: str | None = None):
        from sentencepiece import SentencePieceProcessor

        path = Path(path)
        if not path.is_file():
            raise TokenizerError(f"{path} is not a file; expected a SentencePiece tokenizer.model.")
        try:
            self.sp = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError):
            raise TokenizerError(f"{path} is not a SentencePiece model ({path.stat().st_size} bytes).") from None
        if version not in (None, *FILES):
            raise TokenizerError(f"version is {version!r}; expected one of {', '.join(FILES)}, or None to find out.")
        self.path = path
        inst = self.sp.piece_to_id("[INST]")
        has_control = self.sp.is_control(inst) and self.sp.id_to_piece(inst) == "[INST]"
        self.version = version or ("v3" if has_control else "v1")
        if self.version != "v1" and not has_control:
            raise TokenizerError(f"{path} has no [INST] control id, which the {self.version} template needs; use version='v1'.")

    @classmethod
    def from_version(cls, version: str) -> "Tokenizer":
        """Mistral's own tokenizer, from the files inside the mistral-common package."""
        if version not in FILES:
            raise TokenizerError(f"version is {version!r}; expected one of {', '.join(FILES)}.")
        from importlib.resources import files

        return cls(files("mistral_common") / "data" / FILES[version], version)

    vocab_size = property(lambda self: self.sp.vocab_size())
    bos_id = property(lambda self: self.sp.bos_id())
    eos_id = property(lambda self: self.sp.eos_id())

    def __repr__(self):
        return f"Tokenizer({self.path.name!r}, version={self.version!r}, vocab_size={self.vocab_size})"

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Text to ids. Text that spells a control token, such as </s>, stays text."""
        if not isinstance(text, str):
            raise TokenizerError(f"encode() was given {type(text).__name__}; expected a string.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"{text[error.start]!r} at place {error.start}"
            raise TokenizerError(f"the text holds {half}: half of a character, which has no bytes; leave it out.") from None
        return [self.bos_id] * bos + self.sp.encode(text) + [self.eos_id] * eos

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text. Control ids (bos, eos, [INST]) have no text and are left out."""
        return self.sp.decode(self._checked(ids))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary's own spelling of each id, for looking at: a leading space is '▁', a lone byte is '<0xE2>'."""
        return [self.sp.id_to_piece(token) for token in self._checked(ids)]

    def _checked(self, ids) -> list[int]:
        ids = list(ids)
        for token in ids:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < self.vocab_size:
                raise TokenizerError(f"{token!r} is no id; this vocabulary's are whole numbers from 0 to {self.vocab_size - 1}.")
        return ids

    def stream(self, new: Iterable[int], after: Iterable[int] = ()) -> Iterator[str]:
        """Text for ids as they come, continuing the ids `after`. Stops at eos.

        One id alone can lose its space or be a third of an emoji, so everything is decoded again each time and only what
        was added is yielded, and only once it is whole.
        """
        ids = list(after)
        done = len(self._whole(ids))
        for token in new:
            if token is None or token == self.eos_id:
                break
            ids.append(token)
            text = self._whole(ids)
            if len(text) > done:
                yield text[done:]
                done = len(text)
        if rest := self.decode(ids)[done:]:
            yield rest

    def _whole(self, ids: list[int]) -> str:
        """What is decoded of ids, without a last character whose bytes have not all come yet."""
        ids = self._checked(ids)
        last = list(takewhile(self.sp.is_byte, reversed(ids[-3:])))[::-1]  # a character of UTF-8 misses at most its fourth byte
        utf8 = getincrementaldecoder("utf-8")("replace")
        utf8.decode(bytes(int(self.sp.id_to_piece(token)[3:5], 16) for token in last))
        begun, _ = utf8.getstate()
        return self.decode(ids[: len(ids) - len(begun)])

    def encode_chat(self, messages: list[dict]) -> list[int]:
        """A conversation as the Instruct models were trained on it: ids, starting with bos, ready for an answer.

        messages  dicts with "role" (system, user or assistant) and "content" (a string)

        Each turn is encoded alone and the ids are joined: the template is never a string that is encoded as a whole, where
        a user's "[INST]" could not be told from the template's. System texts are joined and go, followed by a blank line,
        into the first user turn (v1) or the last (v2, v3). Consecutive messages of one role are one message, joined alike.
        A conversation that opens with the assistant gets an empty user turn before it. All as mistral-common does it.
        """
        return [self.bos_id] + [token for _, ids in self.chat_turns(messages) for token in ids]

    def chat_turns(self, messages: list[dict]) -> list[tuple[str, list[int]]]:
        """encode_chat() turn by turn, without the bos: (role, ids), user and assistant in turn, an assistant's ids with eos."""
        turns, system = _turns(messages)
        users = [n for n, (role, _) in enumerate(turns) if role == "user"]
        host = users[0] if self.version == "v1" else users[-1]
        encoded = []
        for n, (role, text) in enumerate(turns):
            if n == host and system:
                text = f"{system}\n\n{text}"
            if role == "assistant":
                ids = self.encode(text if self.version == "v1" else text.rstrip(" "), eos=True)
            elif self.version == "v1":
                ids = self.encode(f"[INST] {text} [/INST]")
            else:
                ids = [self.sp.piece_to_id("[INST]"), *self.encode(text), self.sp.piece_to_id("[/INST]")]
            encoded.append((role, ids))
        return encoded


def _turns(messages) -> tuple[list[tuple[str, str]], str]:
    """Check a conversation; return its (role, text) turns, neighbours of one role merged, and the system text."""
    if not isinstance(messages, list) or not messages:
        raise TokenizerError('The conversation is empty; expected a list such as [{"role": "user", "content": "Hello"}].')
    turns, system, previous = [], [], None
    for n, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, dict) else message
            raise TokenizerError(f"message {n} has the role {role!r}; expected one of {', '.join(ROLES)}.")
        role, text = message["role"], message.get("content")
        if not isinstance(text, str):
            raise TokenizerError(f"message {n} has {type(text).__name__} as content; expected a string.")
        if role == "assistant" and not text:
            raise TokenizerError(f"message {n}, the assistant's, is empty; leave it out.")
        if role == "system" and previous == "assistant":
            raise TokenizerError(f"message {n} is the system's, after the assistant's; put it before or after a user's.")
        if role == "system":
            system.append(text)
        elif role == previous:
            turns[-1] = (role, _paragraphs([turns[-1][1], text]))
        else:
            turns.append((role, text))
        previous = role
    if previous == "assistant":
        raise TokenizerError("The conversation ends with an assistant message; the last word must be the user's.")
    if not turns or turns[0][0] != "user":
        turns.insert(0, ("user", ""))
    return turns, _paragraphs(system)


def _paragraphs(texts: list[str]) -> str:
    return "\n\n".join(text for text in texts if text)
