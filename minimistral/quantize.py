"""The 7B in half or a quarter of its bytes: linear layers kept in 8 or 4 bits, through torchao.

    bits  what is kept                                            a weight takes   7B v0.1
    16    the checkpoint's bfloat16                               2 bytes          13.49 GiB
    8     each row as whole numbers -128 ... 127, times a scale   1 byte            6.87 GiB
    4     each group of 128 along a row as 0 ... 15, times a
          scale, plus a middle                                    0.53 bytes        3.76 GiB

Only weights are rounded: activations, norms, embeddings, cache and logits stay what they were. A product turns the rounded
weight back on the way, one layer at a time.
"""

import logging
import warnings

import torch
from torch import nn
from tqdm.auto import tqdm

from minimistral import checkpoint
from minimistral.config import MistralConfig
from minimistral.model import Mistral
from minimistral.tokenizer import Tokenizer

BITS = (8, 4)
GROUPS = (128, 64, 32)  # int4: the largest that divides a row


def load(folder, bits: int, device="auto", dtype: torch.dtype | None = None,
         format: str | None = None) -> tuple[Mistral, Tokenizer | None]:
    """minimistral.load() with the linear layers in `bits` bits: -> (model, tokenizer).

    Each layer is rounded as soon as it is read, so that neither the device nor the CPU's memory ever holds the 16-bit whole.
    Raises ValueError, before any weight is read, as load() and quantize() do.
    """
    found = checkpoint.inspect(folder, format)
    device, dtype = checkpoint.choose(found, device, dtype)
    check(bits, device)
    with torch.device("meta"):
        model = Mistral(found.config).requires_grad_(False).to(dtype)
    _check_layers(model, bits, device)
    needed = planned_bytes(found.config, bits, dtype.itemsize)
    checkpoint.require_memory(f"In {bits} bits the weights in {folder} need", needed, device)
    small = found.nbytes < checkpoint.LARGE
    with tqdm(total=found.nbytes, unit="B", unit_scale=True, desc="loading", disable=small, leave=False) as bar:
        for name, place in found.tensors.items():
            tensor, finite = checkpoint.read_tensor(name, place, found.config, found.format, device, dtype, bar.update)
            if not finite:
                warnings.warn(f"NaN or infinity is in {place.name} of {folder}: expect no sense.", stacklevel=2)
            module = model.get_submodule(name.removesuffix(".weight"))
            rounded = isinstance(module, nn.Linear)
            module.weight = nn.Parameter(tensor if rounded else tensor.clone(), requires_grad=False)  # it may be the file's own
            if rounded:
                _round(module, bits)
    return model.eval(), found.tokenizer


def quantize(model: Mistral, bits: int = 8, device=None) -> Mistral:
    """Round every linear layer's weight to `bits` bits, in place, and return the model. It cannot be trained afterwards.

    device  where the model shall go (None: it stays). Layers go there one by one and are rounded there

    Raises ValueError, with nothing changed, where torchao is not installed or a layer or device does not suit.
    """
    device = model.tok_embeddings.weight.device if device is None else torch.device(device)
    check(bits, device)
    _check_layers(model, bits, device)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            _round(module.to(device).requires_grad_(False), bits)
    return model.to(device).requires_grad_(False).eval()


def check(bits: int, device: torch.device):
    """Raise ValueError where weights of so many bits cannot be had on a device."""
    if bits not in BITS or isinstance(bits, bool):
        raise ValueError(f"bits is {bits!r}; expected 8 or 4.")
    _torchao()
    if bits == 8 or device.type == "cpu":
        return
    if device.type != "cuda":
        raise ValueError(f"4 bits run on a CPU or on CUDA, and the device is {device}: take 8 bits.")
    if (there := torch.cuda.get_device_capability(device)) < (8, 0):
        raise ValueError(f"4 bits need a GPU of compute capability 8.0, and this one has {there[0]}.{there[1]}: take 8 bits.")


def is_quantized(weight: torch.Tensor) -> bool:
    """Whether a weight is one of torchao's rounded ones."""
    return hasattr(weight, "qdata")


def n_bytes(model: nn.Module) -> int:
    """Bytes that a model's weights really take. (A quantised tensor's own nbytes speaks as if it were not.)"""
    def size(tensor):
        if not is_quantized(tensor):
            return tensor.nbytes
        parts, _ = tensor.__tensor_flatten__()
        return sum(size(getattr(tensor, part)) for part in parts)

    return sum(size(parameter) for parameter in model.parameters())


def planned_bytes(config: MistralConfig, bits: int = 16, wide: int = 2) -> int:
    """Bytes that the weights of a config will take, linear layers in `bits` bits; `wide` bytes for any other number.

    16    rows * columns * wide
    8     rows * columns + rows * 5: a float32 scale a row, and a zero point that torchao keeps, always 0
    4     rows * columns / 2 + rows * groups * 2 * wide: a scale and a middle a group
    """
    if bits not in (16, *BITS):
        raise ValueError(f"bits is {bits!r}; expected 16, 8 or 4.")
    total = 0
    for name, shape in checkpoint.expected_shapes(config).items():
        numbers = torch.Size(shape).numel()
        if bits == 16 or len(shape) == 1 or name == "tok_embeddings.weight":
            total += numbers * wide
        elif bits == 8:
            total += numbers + shape[0] * 5
        else:
            total += numbers // 2 + shape[0] * (shape[1] // group(shape[1])) * 2 * wide
    return total


def group(columns: int) -> int:
    """How many neighbours of a row of `columns` weights share a scale in int4."""
    return next((size for size in GROUPS if columns % size == 0), GROUPS[-1])


def _check_layers(model: Mistral, bits: int, device: torch.device):
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if is_quantized(module.weight):
            raise ValueError(f"{name} is quantised already; load the model again to choose other bits.")
        if bits == 8:
            continue
        rows, columns = module.weight.shape
        if rows % 16 or columns % GROUPS[-1]:
            raise ValueError(f"{name} has {rows} rows of {columns}; 4 bits need multiples of 16 and of {GROUPS[-1]}.")
        if device.type == "cuda" and module.weight.dtype != torch.bfloat16:
            raise ValueError(f"{name} is {module.weight.dtype}; on CUDA 4 bits need bfloat16: load with dtype=torch.bfloat16.")


def _round(module: nn.Linear, bits: int):
    """Replace one layer's weight by its rounded form, on the layer's device."""
    quantization = _torchao()
    if bits == 8:
        config = quantization.Int8WeightOnlyConfig(set_inductor_config=False)
    elif module.weight.device.type == "cuda":  # the packing of PyTorch's own kernel; others want more packages
        config = quantization.Int4WeightOnlyConfig(
            group_size=group(module.in_features), int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        )
    else:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        config = PrototypeInt4WeightOnlyConfig(group_size=group(module.in_features), set_inductor_config=False)
    quantization.quantize_(module, config)


def _torchao():
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it tells of every library that it has no use for here
    try:
        from torchao import quantization
    except ImportError:
        raise ValueError("8 and 4 bits need the package torchao: pip install 'minimistral[quantize]'.") from None
    finally:
        logging.disable(disabled)
    return quantization
