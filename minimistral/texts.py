"""What a model is trained on: reading a folder of texts, learning a vocabulary from them, cutting them into rows.

Each from_... returns `batches`, a pure function: batches(step) -> ids (B, T+1) int64, the same for the same step and seed.
"""

import io
import random
import re
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from minimistral.files import write
from minimistral.tokenizer import Tokenizer

ENDINGS = (".txt", ".md", ".markdown", ".rst", ".text")


class TextError(ValueError):
    """Texts that nothing can be learned from as they are; the message names what and says what to do."""


class VocabularyError(TextError):
    """A vocabulary size that the texts do not allow; `possible` is the nearest that they do, None where there is none."""

    def __init__(self, said: str, possible: int | None):
        super().__init__(said)
        self.possible = possible


def read_folder(folder) -> list[str]:
    """The texts of a folder and the folders in it, by name: every file that ends in .txt, .md, .markdown, .rst or .text.

    Raises TextError for a folder without any, and for a file among them that is not UTF-8 text.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TextError(f"{folder} is {'a file' if folder.exists() else 'not there'}; give a folder with texts in it.")
    inside = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in inside if path.suffix.lower() in ENDINGS]
    if not files:
        found = f"{len(inside)} files of other kinds ({inside[0].name}, ...)" if inside else "nothing"
        raise TextError(f"{folder} holds {found}; put texts into it, in files that end in {', '.join(ENDINGS)}.")
    texts = [text for file in files if (text := _read(file)).strip()]
    if not texts:
        raise TextError(f"The {len(files)} text files in {folder} are empty: there is nothing to learn from.")
    return texts


def _read(file: Path) -> str:
    data = file.read_bytes()
    try:
        if b"\0" in data:
            raise TextError(f"{file} is binary (byte 0 at place {data.index(0)}): take it out, or save it as UTF-8 text.")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {data[error.start]:#x} at place {error.start}"
        raise TextError(f"{file} is not UTF-8 text ({where}): save it as UTF-8, or take it out.") from None


def learn_vocabulary(texts: Iterable[str], vocab_size: int, file, **options) -> Tokenizer:
    """Learn a SentencePiece BPE vocabulary of vocab_size ids with byte fallback, and write it to file (a tokenizer.model).

    Ids 0 to 2 are unk, bos and eos, the next 256 are the bytes, so that any text can be spelled. options go to SentencePiece.
    Raises TextError naming the largest vocabulary that these texts allow, or the smallest, if it is out of that range.
    """
    import sentencepiece

    lines = (line for text in texts for line in text.splitlines() if line.strip())
    settings: dict = dict(
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.9999,
        hard_vocab_limit=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        max_sentence_length=1_000_000,
        num_threads=1,
        minloglevel=2,
    )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines, model_writer=model, vocab_size=vocab_size, **settings | options
        )
    except RuntimeError as error:
        raise _explained(str(error), vocab_size) from None
    write(Path(file), model.getvalue())
    return Tokenizer(file)


def _explained(error: str, vocab_size: int) -> VocabularyError:
    """SentencePiece's own words in one sentence."""
    asked = f"and {vocab_size} were asked for"
    if found := re.search(r"too high.*<= (\d+)", error):
        said = f"These texts allow a vocabulary of at most {found[1]} ids, {asked}: take {found[1]}, or give more text."
    elif found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", error):
        said = f"These texts need at least {found[1]} ids, for the bytes and for single characters, {asked}."
    else:
        said = f"There is no text to learn a vocabulary from: SentencePiece says {error}"
    return VocabularyError(said, found and int(found[1]))


def from_texts(texts: Iterable[str], tokenizer: Tokenizer, T: int, batch_size: int, seed: int = 0) -> Callable:
    """Rows of T + 1 ids from random places of the texts, which stand in one long line, each between its bos and eos.

    Raises TextError if all together they have fewer than T + 1 tokens.
    """
    _check_sizes(T, batch_size)
    line = np.array([n for text in texts for n in tokenizer.encode(text, bos=True, eos=True)], dtype=np.int64)
    if len(line) < T + 1:
        raise TextError(f"The texts have {len(line)} tokens, and one row needs T + 1 = {T + 1}: give more text, or a smaller T.")

    def batches(step: int) -> torch.Tensor:
        starts = np.random.default_rng([seed, step]).integers(len(line) - T, size=batch_size)
        return torch.from_numpy(line[starts[:, None] + np.arange(T + 1)])

    return batches


def from_folder(folder, tokenizer: Tokenizer, T: int, batch_size: int, seed: int = 0) -> Callable:
    """from_texts() on what read_folder() reads. Raises TextError as the two do."""
    return from_texts(read_folder(folder), tokenizer, T, batch_size, seed)


def from_stories(tokenizer: Tokenizer, T: int, batch_size: int, seed: int = 0) -> Callable:
    """The package's own stories, told anew at every step: no row is seen twice. Each row begins with a story's bos."""
    from minimistral.tiny import stories

    _check_sizes(T, batch_size)

    def rows(rng: random.Random):
        while True:
            ids = []
            while len(ids) <= T:
                ids += tokenizer.encode(stories.story(rng).text, bos=True, eos=True)
            yield ids[: T + 1]

    def batches(step: int) -> torch.Tensor:
        return torch.tensor(list(islice(rows(random.Random(f"{seed}/{step}")), batch_size)))

    return batches


def _check_sizes(T, batch_size):
    for name, value in (("T", T), ("batch_size", batch_size)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise TextError(f"{name} is {value!r}: expected a whole number of at least 1.")
