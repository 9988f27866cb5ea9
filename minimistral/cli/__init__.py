"""The command `minimistral`: the course's jobs for those who prefer a terminal. One module a command."""

import argparse
import os
import pkgutil
import sys
from importlib import import_module
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status: 0 done, 1 failed, 2 wrongly asked for, 130 stopped by Ctrl-C."""
    args = parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except ValueError as error:
        print(f"minimistral {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `minimistral generate ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def parser() -> argparse.ArgumentParser:
    """Every module of this package is a subcommand: its docstring is the help, arguments() says what it takes, run() does it.

    They import torch and all else in run(), so that --help answers at once.
    """
    top = argparse.ArgumentParser(prog="minimistral", description="Mistral 7B, small enough to read.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        module = import_module(f"{__name__}.{name}")
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        command.set_defaults(run=module.run)
        module.arguments(command)
    return top


# ---- What several commands share -----------------------------------------------------------------------------


def load(folder: str | None, parallel: bool = False):
    """-> (model, tokenizer) of a folder, or without one the package's small ones; parallel: this process's part of the model.

    Refuses a folder without a tokenizer.
    """
    source = import_module("minimistral.parallel" if parallel else "minimistral")
    model, tokenizer = source.load(folder) if folder else source.load_tiny()
    if tokenizer is None:
        raise ValueError(f"{folder} holds no tokenizer.model: put the model's own beside its weights.")
    return model, tokenizer


def check_out(out: str | None):
    """Refuse, before anything is measured, an --out that nothing could be written to."""
    if out and not Path(out).absolute().parent.is_dir():
        raise ValueError(f"--out is {out}, and there is no folder {Path(out).parent}; make it first.")
