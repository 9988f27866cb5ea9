"""What an exhibit needs to stand on: the small model as a folder of the other format."""

from minimistral import checkpoint
from minimistral.model import Mistral
from minimistral.tokenizer import Tokenizer


def as_hugging_face(model: Mistral, tokenizer: Tokenizer, folder):
    """Write a model as Hugging Face does: other names, and the rows of wq and wk in the other order."""
    checkpoint.export(model, folder, tokenizer)
