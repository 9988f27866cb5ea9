"""A cache for layers whose windows differ: some with a window, some without, or windows of several widths.

Layers of one width share one RollingBuffer. A layer with a window keeps W slots, one without grows with the text.
"""

from collections import Counter
from dataclasses import dataclass, replace

from torch import Tensor

from minimistral.cache import RollingBuffer, Step
from minimistral.config import MistralConfig


@dataclass
class HybridStep:
    """One chunk: a Step for each width, and the mask of the layer whose keys were exchanged last."""

    parts: list[Step]
    mask: Tensor | None = None

    @property
    def positions(self) -> Tensor:
        """(B, T): absolute position of each token of the chunk."""
        return self.parts[0].positions


class HybridCache:
    """A RollingBuffer for each width of window; used as one RollingBuffer is.

    config, batch_size, window  as RollingBuffer takes them: "config" keeps each layer's own window, None grows in all layers
    parts                       the RollingBuffers; layer n is the index[n]-th layer of parts[part_of[n]]

    Raises ValueError as RollingBuffer does.
    """

    def __init__(self, config: MistralConfig, batch_size: int = 1, device=None, dtype=None, window="config"):
        widths = list(dict.fromkeys(config.windows))
        layers = Counter(config.windows)
        self.config, self.batch_size = config, batch_size
        self.parts = [
            RollingBuffer(replace(config, n_layers=layers[width], sliding_window=width), batch_size, device, dtype, window)
            for width in widths
        ]
        self.part_of = [widths.index(width) for width in config.windows]
        self.index = [config.windows[:layer].count(width) for layer, width in enumerate(config.windows)]

    @property
    def position(self) -> Tensor:
        """(B,) int64: the position that the next token of each row will take."""
        return self.parts[0].position

    @property
    def keys(self) -> Tensor:
        """Those of the first part: all are of one dtype and on one device."""
        return self.parts[0].keys

    def reset(self):
        """Forget everything."""
        for part in self.parts:
            part.reset()

    def n_bytes(self) -> int:
        """Bytes of keys and values, of all layers."""
        return sum(part.n_bytes() for part in self.parts)

    def begin(self, T: int, lengths: Tensor) -> HybridStep:
        """Open a chunk of T tokens a row, of which lengths (B,) are real."""
        return HybridStep([part.begin(T, lengths) for part in self.parts])

    def exchange(self, layer: int, k: Tensor, v: Tensor, step: HybridStep) -> tuple[Tensor, Tensor]:
        """As RollingBuffer.exchange(). step.mask is this layer's from now on."""
        n = self.part_of[layer]
        step.mask = step.parts[n].mask
        return self.parts[n].exchange(self.index[layer], k, v, step.parts[n])

    def finish(self, step: HybridStep):
        """Close the chunk."""
        for part, own in zip(self.parts, step.parts, strict=True):
            part.finish(own)


def cache_for(config: MistralConfig, batch_size: int = 1, device=None, dtype=None,
              window="config") -> RollingBuffer | HybridCache:
    """The cache that a model of this config needs: a RollingBuffer, or where its layers' windows differ a HybridCache."""
    return (HybridCache if config.is_mixed else RollingBuffer)(config, batch_size, device, dtype, window)
