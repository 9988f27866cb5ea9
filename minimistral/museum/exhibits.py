"""What an exhibit needs to stand on: the small model as a folder of the other format."""

from minimistral import checkpoint


def as_hugging_face(model, tokenizer, folder):
    """Write a model as Hugging Face does: other names, and the rows of wq and wk in the other order."""
    checkpoint.export(model, folder, tokenizer)
