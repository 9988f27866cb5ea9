"""Stopping a training and going on: a checkpoint that is never half there, and Ctrl-C that waits for the step to end."""

import io
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from minimistral.checkpoint import save
from minimistral.files import write
from minimistral.progress import Log

FILE = "training.pt"


class TrainingError(ValueError):
    """Training that cannot begin, go on or be kept; the message says why, and which checkpoint is good."""


class TrainingCheckpoint:
    """folder/training.pt: all that train.fit() needs to go on. Without a folder nothing is written.

    settings  what fit() was told; going on with others would be another training
    parts     model, optimizer, schedule: whatever has a state_dict()
    step      how many updates the file's weights have had; -1: nothing was written yet
    """

    def __init__(self, folder, settings: dict, **parts):
        self.folder, self.settings, self.parts, self.step = folder and Path(folder), settings, parts, -1

    def __str__(self):
        if self.step >= 0:
            return f"the last good checkpoint is {self.folder / FILE}, of step {self.step}"
        return "there is no checkpoint yet" if self.folder else "there is no checkpoint, because no folder was given"

    def write(self, log: Log, rng: Tensor):
        """Replace the file by one of this moment. rng: torch.get_rng_state() from before the next batch was drawn."""
        if self.folder is None:
            return
        states = {name: part.state_dict() for name, part in self.parts.items()}
        config, data = self.parts["model"].config.to_params(), io.BytesIO()
        torch.save(states | dict(config=config, settings=self.settings, log=asdict(log), rng=rng), data)
        with self._full_disk():
            write(self.folder / FILE, data.getvalue())
        self.step = len(log.steps)

    def write_model(self):
        """Beside it the model alone, for mm.load."""
        if self.folder is not None:
            with self._full_disk():
                save(self.parts["model"], self.folder)

    def read(self) -> Log:
        """Set every part to the file's state, and PyTorch's random numbers too; -> the log up to there."""
        file, model = self.folder / FILE, self.parts["model"]
        if not file.is_file():
            raise TrainingError(f"There is no {file} to go on from; leave resume out to begin.")
        try:
            found = torch.load(file, map_location=model.output.weight.device, weights_only=True)
            log, config, settings = Log(**found["log"]), found["config"], found["settings"]
        except Exception as error:  # whatever a damaged or foreign file makes of it
            said = f"{file} is no checkpoint of train.fit() ({type(error).__name__}): begin in another folder."
            raise TrainingError(said) from None
        for what, old, new in (("model", config, model.config.to_params()), ("training", settings, self.settings)):
            if differing := [f"{name} was {old.get(name)} and is {new[name]}" for name in new if old.get(name) != new[name]]:
                said = f"{file} is of another {what}: {', '.join(differing)}."
                raise TrainingError(f"{said} Go on with the same, or begin in another folder.")
        for name, part in self.parts.items():
            part.load_state_dict(found[name])
        torch.set_rng_state(found["rng"].cpu())
        self.step, log.interrupted, log.finished = len(log.steps), False, False
        return log

    @contextmanager
    def _full_disk(self):
        try:
            yield
        except OSError as error:
            said = f"Nothing could be written to {self.folder} ({error.strerror}); {self}."
            raise TrainingError(f"{said} Make room, then go on with resume.") from None


@contextmanager
def stop_button() -> Iterator[list]:
    """Yields a list, empty until Ctrl-C (a notebook's stop button) is pressed. Pressed twice, it stops at once."""
    pressed = []

    def press(number, frame):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    if threading.current_thread() is not threading.main_thread():  # only there signals are heard
        yield pressed
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
