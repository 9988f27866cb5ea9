"""What an exhibit needs to stand on: the small model as a folder of the other format."""

import json
from pathlib import Path

from minimistral import checkpoint
from minimistral.config import HF_NAMES


def as_hugging_face(model, tokenizer, folder):
    """Write a model as Hugging Face does: other names, and the rows of wq and wk in the other order."""
    from safetensors.torch import save_file

    folder, c, tensors = Path(folder), model.config, {}
    for name, tensor in model.state_dict().items():
        heads = c.n_heads if ".wq." in name else c.n_kv_heads if ".wk." in name else None
        rows = tensor if heads is None else checkpoint.to_half_split(tensor, heads)
        tensors[checkpoint.hf_name(name)] = rows.contiguous()
    save_file(tensors, folder / "model.safetensors")
    ours = c.to_params()
    (folder / "config.json").write_text(json.dumps({theirs: ours[name] for theirs, name in HF_NAMES.items()}), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
