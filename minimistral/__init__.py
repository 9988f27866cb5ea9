"""minimistral: Mistral 7B, small enough to read and right enough to be measured against the real thing."""

from minimistral.attention import attend
from minimistral.cache import RollingBuffer
from minimistral.checkpoint import CheckpointError, load, save
from minimistral.config import ConfigError, MistralConfig
from minimistral.generation import generate, stream
from minimistral.model import Mistral
from minimistral.tokenizer import Tokenizer, TokenizerError

__version__ = "0.1.0"


def load_tiny() -> tuple[Mistral, Tokenizer]:
    """The small trained Mistral that comes with the package: -> (model, tokenizer), float32, on the CPU."""
    from importlib.resources import as_file, files

    import torch

    with as_file(files("minimistral") / "tiny" / "model") as folder:
        return load(folder, device="cpu", dtype=torch.float32)
