"""One model over several processes, a GPU each: tensor parallelism, with PyTorch's own DTensor (Shoeybi et al., 2019).

Of the first matrices of each half layer a rank holds some outputs (its heads, its part of the SwiGLU's inner width), of the
last one the inputs that belong to them; the ranks' results are added up, once after attention and once after the feed-forward:

    x ─┬─ wq wk wv: own heads ── attend, own cache ── wo: a sum of own heads ──┬─ all-reduce: the sum of all ranks
       │                                                                       │
       └─ each rank has the whole x                        each rank has the whole result

So a rank's part is a Mistral of its own, as deep and as wide in its residual stream, with fewer heads and a thinner feed-forward:
share() is its config, and its cache holds no other key heads. The embeddings, the output and the norms are whole on each rank.

    torchrun --nproc-per-node 2 -m minimistral generate "Once upon a time" --parallel
"""

import atexit
import os
import warnings
from dataclasses import replace
from math import gcd

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import minimistral
from minimistral import checkpoint, counting
from minimistral.config import MistralConfig
from minimistral.model import Mistral

#: PyTorch's names are those of x @ A, where the weight is A transposed: "Colwise" cuts a weight's rows, "Rowwise" its columns
PLAN = {
    "layers.*.attention.w[qkv]": ColwiseParallel(),
    "layers.*.attention.wo": RowwiseParallel(),
    "layers.*.feed_forward.w[13]": ColwiseParallel(),
    "layers.*.feed_forward.w2": RowwiseParallel(),
}


def share(config: MistralConfig, ranks: int) -> MistralConfig:
    """The config of what one of so many ranks holds. Raises ValueError where they cannot all get the same."""
    both = gcd(config.n_kv_heads, config.hidden_dim)
    if both % ranks:
        raise ValueError(
            f"{ranks} processes cannot share {config.n_kv_heads} key heads and hidden_dim = {config.hidden_dim} evenly: "
            f"start as many as can ({', '.join(str(n) for n in range(1, both + 1) if both % n == 0)})."
        )
    return replace(config, n_heads=config.n_heads // ranks, n_kv_heads=config.n_kv_heads // ranks,
                   hidden_dim=config.hidden_dim // ranks)  # fmt: skip


def join() -> DeviceMesh:
    """Meet the other processes that torchrun started: on GPUs where there are any, else on the CPU. All will draw alike.

    Raises ValueError where torchrun did not start this process, or started more than there are GPUs.
    """
    if "LOCAL_WORLD_SIZE" not in os.environ:
        raise ValueError("this process is alone: start several, as in torchrun --nproc-per-node 2 -m minimistral generate ...")
    ranks, here, gpus = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if 0 < gpus < here:
        raise ValueError(f"torchrun started {here} processes and here are {gpus} GPUs: give --nproc-per-node {gpus}.")
    if not dist.is_initialized():
        atexit.register(dist.destroy_process_group)
    mesh = init_device_mesh("cuda" if gpus else "cpu", (ranks,))
    seed = [torch.seed()]
    dist.broadcast_object_list(seed)
    torch.manual_seed(seed[0])
    return mesh


def split(model: Mistral, mesh: DeviceMesh) -> Mistral:
    """Leave this rank's part of a model that is the same on all ranks. In place; it is called, and generates, as before.

    All ranks must make the same calls; each gets the whole logits. For the model's cache, take its new config: model.config.
    Raises ValueError as share() does, before anything is changed.
    """
    config = share(model.config, mesh.size())
    parallelize_module(model, mesh, PLAN, src_data_rank=None)
    model.config = config
    for block in model.layers:
        block.attention.n_heads, block.attention.n_kv_heads = config.n_heads, config.n_kv_heads
    return model


def load(folder, dtype: torch.dtype | None = None, format: str | None = None):
    """checkpoint.load() for each of the processes that torchrun started: -> (this rank's part of the model, tokenizer).

    Memory: a rank's part (the parameters of its share()) and, while one tensor after the other is cut, that one on the CPU.
    """
    found = checkpoint.inspect(folder, format)
    mesh = join()
    device, dtype = checkpoint.choose(found, mesh.device_type, dtype)
    with torch.device("meta"):
        model = split(Mistral(found.config).to(dtype), mesh)
    needed = sum(counting.parameters(model.config).values()) * dtype.itemsize
    checkpoint.require_memory(f"A rank's part of {folder} needs", needed, device)
    model.to_empty(device=device).requires_grad_(False).eval()
    for name, place in found.tensors.items():
        whole, finite = checkpoint.read_tensor(name, place, found.config, found.format, torch.device("cpu"), dtype)
        if not finite:
            warnings.warn(f"NaN or infinity is in {place.name} of {found.folder}: expect no sense.", stacklevel=2)
        part = model.get_parameter(name).data
        if isinstance(part, DTensor):
            whole = whole.chunk(mesh.size(), part.placements[0].dim)[mesh.get_local_rank()]
            part = part.to_local()
        part.copy_(whole)
    return model, found.tokenizer


def load_tiny():
    """minimistral.load_tiny(), divided: two processes, since it has two key heads."""
    model, tokenizer = minimistral.load_tiny()
    return split(model, join()), tokenizer
