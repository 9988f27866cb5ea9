"""Runs of both halves over depths, windows and seeds, kept with everything that was counted.

A record is one JSON object:

    experiment  "cliff", "stories", or "hybrid": the cliff where layers differ, its windows a list
    runs        one for each depth, window and seed: layers, window (null: full attention), seed, steps, loss (of every 50th
                step), seconds, parameters, counts, and machine and command, for runs of several machines may stand in one file
    counts      cliff: [distance, right, of], .... stories: [alive, distance, right, told, of], ...
"""

import json
import time
from pathlib import Path

from minimistral.config import Window
from minimistral.files import write
from minimistral.reach import cliff, stories

EXPERIMENTS = {"cliff": cliff, "hybrid": cliff, "stories": stories}
RECORDED = Path(__file__).parent / "recorded"
KEYS = ("layers", "window", "seed", "steps", "loss", "seconds", "parameters", "counts", "machine", "command")


def run(experiment: str, shapes, seeds, out=None, *, n: int | None = None, steps: int | None = None, save=None,
        command: str = "", progress: bool = True) -> dict:
    """Train and question a model for each (layers, window) of shapes and each seed: -> the record.

    out      a file, written anew after each run. Runs that are there already, of as many steps, are kept and not made again
    n        questions at each point (256 for the cliff, 128 for stories)
    save     a folder; each model is written below it in bfloat16, as cliff-2-layers-window-16-seed-0
    Raises ValueError for an unknown experiment, shapes it has no meaning for, or an `out` that holds something else.
    """
    import torch

    from minimistral.bench.measure import machine
    from minimistral.checkpoint import save as save_model

    half = chosen(experiment)
    for layers, window in shapes:
        half.config(layers, window)
        if isinstance(window, tuple) != (experiment == "hybrid"):
            raise ValueError(f"window is {window}; expected one for each layer in a hybrid, and one for all elsewhere.")
        least = 4 if experiment == "stories" else 2
        if (experiment != "stories" and cliff.narrow(window) is None) or (cliff.narrow(window) or least) < least:
            raise ValueError(f"window is {window}; expected at least 2 for a cliff (full attention has none), 4 for stories.")
    record: dict = read(out, experiment) if out and Path(out).exists() else {"experiment": experiment, "runs": []}
    for seed in seeds:
        for layers, window in shapes:
            wanted = steps or steps_of(experiment, layers, window)
            if (layers, window, seed, wanted) in [tuple(r[key] for key in KEYS[:4]) for r in record["runs"]]:
                continue
            name = label(layers, window)
            print(f"{experiment}, {name}, seed {seed}", flush=True)
            logs, began = [], time.perf_counter()
            model = half.train(layers, window, seed, steps=steps, watch=logs.append, progress=progress)
            taken, log = time.perf_counter() - began, logs[-1]
            counts = counted(experiment, model, n, progress)
            record["runs"].append(dict(
                layers=layers, window=window, seed=seed, steps=len(log.steps), loss=[round(x, 3) for x in log.losses[::50]],
                seconds=round(taken, 1), parameters=model.n_parameters(), counts=counts, machine=machine("cpu"),
                command=command,
            ))
            if save:
                save_model(model.to(torch.bfloat16), Path(save) / f"{experiment}-{name.replace(' ', '-')}-seed-{seed}")
            if out:
                write(Path(out), to_json(record))
    return record


def steps_of(experiment: str, layers: int, window: Window) -> int:
    """The steps of training that suit a shape."""
    return stories.settings(layers)["steps"] if experiment == "stories" else cliff.settings(layers, window)["steps"]


def counted(experiment: str, model, n: int | None = None, progress: bool = True) -> list[list[int]]:
    """Question a model at the distances that suit its shape."""
    from tqdm.auto import tqdm

    c = model.config
    at = distances(experiment, c.n_layers, c.sliding_window)
    if experiment != "stories":
        return [[d, *pair] for d, pair in cliff.counts(model, at, n or 256).items()]
    with tqdm(total=len(at) * len(stories.ALIVE), unit="point", disable=not progress) as bar:
        found = stories.grid(model, at, n=n or 128, tick=bar.update)
    return [[alive, d, a.right, a.told, a.of] for (alive, d), a in found.items()]


def distances(experiment: str, layers: int, window: Window) -> list[int]:
    """Where to ask: at all first distances, around each multiple of W - 1 and 1.5 W, and here and there to twice L (W - 1)."""
    window = cliff.narrow(window)
    step = (window or 16) - 1
    reach = layers * step if window else 90
    marks = [*(step * k for k in range(1, layers + 1)), round(1.5 * (window or 16))]
    at = set(range(1, 9)) | {m + off for m in marks for off in (-2, -1, 0, 1, 2)}
    at |= set(range(3, 2 * reach + 1, 4 if reach < 40 else 6))
    far = 2 * reach if window else reach
    at = {d for d in at if 1 <= d <= far}
    if experiment != "stories":
        return sorted(at | set(range(1, min(far, reach + 6) + 1)))
    return stories.possible(at)


def chosen(experiment: str):
    """The module of an experiment. Raises ValueError naming those there are."""
    if experiment not in EXPERIMENTS:
        raise ValueError(f"experiment is {experiment!r}; expected one of {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[experiment]


def label(layers: int, window: Window) -> str:
    """A shape as one reads it: 2 layers window 16."""
    if isinstance(window, tuple):
        return f"{layers} layers windows " + listed(window, "-")
    return f"{layers} layer{'s' * (layers > 1)} " + (f"window {window}" if window else "full attention")


def listed(windows: tuple, between: str = ", ") -> str:
    """A window for each layer, as one reads it: 16, none, 16, 16."""
    return between.join(str(window or "none") for window in windows)


def to_json(record: dict) -> bytes:
    """One line a run, so that a record can be read and compared."""
    runs = ",\n ".join(json.dumps(run) for run in record["runs"])
    return f'{{"experiment": "{record["experiment"]}", "runs": [\n {runs}\n]}}\n'.encode()


def read(path, experiment: str | None = None) -> dict:
    """A record from its file. Raises ValueError, naming the file, for anything that is none."""
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; `minimistral reach` makes such files.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no record ({error}); give a file that `minimistral reach` wrote.") from None
    if not isinstance(record, dict) or record.get("experiment") not in EXPERIMENTS or not isinstance(record.get("runs"), list):
        raise ValueError(f"{path} is no record of an experiment with runs; give a file that `minimistral reach` wrote.")
    if experiment and record["experiment"] != experiment:
        raise ValueError(f"{path} holds a record of {record['experiment']!r}, not of {experiment!r}: take another file.")
    for at, run in enumerate(record["runs"]):
        if missing := [key for key in KEYS if key not in run]:
            raise ValueError(f"{path}: run {at} lacks {', '.join(missing)}.")
        if isinstance(run["window"], list):
            run["window"] = tuple(run["window"])
    return record


def recorded(experiment: str) -> dict:
    """What came with the package: the runs of all files recorded/EXPERIMENT*.json together."""
    chosen(experiment)
    files = sorted(RECORDED.glob(f"{experiment}*.json"))
    runs = [run for path in files for run in read(path, experiment)["runs"]]
    if experiment == "hybrid":
        runs.sort(key=lambda run: (str(run["window"]), run["seed"]))
    else:
        runs.sort(key=lambda run: (run["window"] is None, run["window"] or 0, run["layers"], run["seed"]))
    return {"experiment": experiment, "runs": runs}
