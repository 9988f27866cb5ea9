"""One pass through a model with nothing thrown away, for the pictures to draw from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minimistral import masks, rope
from minimistral.attention import weights as attention_weights
from minimistral.model import Mistral
from minimistral.tokenizer import Tokenizer


@dataclass
class Record:
    """One pass of one sequence, with what is usually thrown away kept."""

    labels: list[str]  # the T tokens as text
    residual: Tensor  # (L + 1, T, dim): the stream before the first layer and after each
    weights: Tensor  # (L, H, T, T): attention weights; row i is what position i looks at
    logits: Tensor  # (T, V)
    window: int | None


@torch.no_grad()
def record(model: Mistral, tokenizer: Tokenizer, text: str, last: int | None = None) -> Record:
    """Run the model over a text (or its last tokens) and keep the stream, the attention weights and the logits."""
    if not text.strip():
        raise ValueError("The text is empty; give a sentence.")
    ids = tokenizer.encode(text, bos=True)[-last if last else None :]
    window = model.config.sliding_window
    turn = rope.angles(masks.positions(len(ids)), model.config.head_dim, model.config.rope_theta)
    x = model.tok_embeddings(torch.tensor([ids]))
    residual, weights = [x[0]], []
    for block in model.layers:
        q, k, _ = block.attention.project(block.attention_norm(x), turn)
        weights.append(attention_weights(q, k, window)[0])
        x = block(x, turn, None, 0, None)
        residual.append(x[0])
    logits = model.output(model.norm(x))[0].float()
    labels = [piece.replace("▁", " ").strip() or "·" for piece in tokenizer.pieces(ids)]
    return Record(labels, torch.stack(residual), torch.stack(weights), logits, window)


def best_head(rec: Record, looks: str, at: str) -> tuple[int, int]:
    """The (layer, head), counted from 0, in which the last token called `looks` looks hardest at the last one called `at`."""
    for name in (looks, at):
        if name not in rec.labels:
            raise ValueError(f"no token here is called {name!r}; there are {', '.join(rec.labels)}.")
    i, j = (len(rec.labels) - 1 - rec.labels[::-1].index(name) for name in (looks, at))
    return divmod(rec.weights[:, :, i, j].argmax().item(), rec.weights.shape[1])
