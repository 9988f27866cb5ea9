"""One pass of a model that memory does not hold: a layer is read, used, and let go before the next one is read."""

import warnings
from contextlib import contextmanager

import torch
from torch import Tensor

from minimistral import checkpoint
from minimistral.model import Mistral


@torch.no_grad()
def forward(folder, tokens: Tensor, *, device="cpu", dtype: torch.dtype | None = None, format: str | None = None,
            last_only: bool = False, progress: bool = True) -> Tensor:
    """tokens (B, T) int64 -> logits (B, T, V) float32, exactly those of load(folder, device, dtype) and then model(tokens).

    Memory: the largest part (of the 7B in bfloat16 a layer, 416 MiB), and what the pass itself takes. Everything is read once
    a call, so all tokens that are known belong into one call.
    Raises as load() does, before any weight is read; ValueError for tokens that the model refuses.
    """
    found = checkpoint.inspect(folder, format)
    device, dtype = checkpoint.choose(found, device, dtype)
    with torch.device("meta"):
        model = Mistral(found.config).requires_grad_(False).eval()
    parts = [model.tok_embeddings, *model.layers, model.norm, model.output]
    largest = max(sum(p.numel() for p in part.parameters()) for part in parts) * dtype.itemsize
    checkpoint.require_memory(f"The largest part of {folder} needs", largest, device, "Close other programs.")
    with _reading(model, parts, found, device, dtype, progress):
        return model(tokens.to(device), last_only=last_only)


@contextmanager
def _reading(model, parts, found, device, dtype, progress):
    """While the block runs, each part of the model reads its weights when it is called and drops them when it is done."""
    from tqdm.auto import tqdm

    names = {id(module): name for name, module in model.named_modules()}
    with tqdm(total=found.nbytes, unit="B", unit_scale=True, desc="a layer at a time", disable=not progress) as bar:

        def fill(part, _):
            weights = {}
            for name in part.state_dict():
                native = f"{names[id(part)]}.{name}"
                place = found.tensors[native]
                weights[name], finite = checkpoint.read_tensor(native, place, found.config, found.format, device, dtype,
                                                               bar.update)  # fmt: skip
                if not finite:
                    warnings.warn(f"NaN or infinity is in {place.name} of {found.folder}: expect no sense.", stacklevel=2)
            part.load_state_dict(weights, assign=True)

        def drop(part, *_):
            part.to_empty(device="meta")

        hooks = [hook for part in parts for hook in (part.register_forward_pre_hook(fill), part.register_forward_hook(drop))]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
