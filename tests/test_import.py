"""`import minimistral` loads torch and nothing heavier. Processor time is measured: a busy machine does not count."""

import json
import subprocess
import sys
from pathlib import Path

import minimistral

HEAVY = {
    "matplotlib", "ipywidgets", "transformers", "IPython", "sentencepiece", "mistral_common", "tqdm", "pandas",
    "safetensors", "huggingface_hub",
}  # fmt: skip

PROGRAM = """
import json, sys, time
start = time.process_time()
import torch
middle = time.process_time()
before = set(sys.modules)
import minimistral
end = time.process_time()
new = sorted({name.split(".")[0] for name in set(sys.modules) - before})
loaded = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps(dict(torch=middle - start, rest=end - middle, new=new, loaded=loaded, file=minimistral.__file__)))
"""


def import_in_a_fresh_process():
    root = Path(minimistral.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_costs_little_more_than_torch_and_loads_nothing_heavy():
    runs = [import_in_a_fresh_process() for _ in range(4)][1:]  # the first warms the disk
    assert Path(runs[0]["file"]) == Path(minimistral.__file__)
    assert not HEAVY & set(runs[0]["new"])
    assert not (HEAVY - {"tqdm"}) & set(runs[0]["loaded"])  # torch itself may load tqdm
    assert min(run["rest"] for run in runs) < 0.3


def test_every_public_name_is_there():
    names = {"MistralConfig", "Mistral", "RollingBuffer", "load", "save", "generate", "stream", "Tokenizer", "attend",
             "load_tiny", "ConfigError", "CheckpointError", "TokenizerError"}  # fmt: skip
    assert names <= set(dir(minimistral))


def test_every_error_is_a_value_error():
    for error in (minimistral.ConfigError, minimistral.CheckpointError, minimistral.TokenizerError):
        assert issubclass(error, ValueError)
