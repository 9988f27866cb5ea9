"""The command `minimistral`: the course's jobs for those who prefer a terminal."""

import argparse
import os
import sys


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
    """One subcommand a job. Each names the function that does it, which imports what it needs."""
    top = argparse.ArgumentParser(prog="minimistral", description="Mistral 7B, small enough to read.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, run, help):
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(run=run)
        return made

    lab = command("lab", run_lab, "open JupyterLab on the course, in my/, a copy where your work is never overwritten")
    lab.add_argument("--port", type=int, default=8888, help="the first port to try (%(default)s)")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")

    generate = command("generate", run_generate, "continue a text")
    generate.add_argument("prompt", help="the text to continue")
    generate.add_argument("--folder", help="a model folder (the small model that comes with the package)")
    generate.add_argument("--max-new-tokens", type=int, default=200, metavar="N", help="how many tokens at most (%(default)s)")
    generate.add_argument("--temperature", type=float, default=0.0, metavar="T", help="above 0: draw (%(default)s)")
    generate.add_argument("--top-p", type=float, metavar="P", help="draw among the likeliest that together hold P (all)")
    generate.add_argument("--seed", type=int, metavar="N", help="draw the same text each time")
    generate.add_argument("--chunk-size", type=int, metavar="N", help="feed the prompt N tokens at a time (all at once)")

    bench = command("bench", run_bench, "measure this machine: attention over a window against full causal attention")
    bench.add_argument("what", choices=["attention"], help="what to measure")
    bench.add_argument("--out", metavar="FILE", help="write the record (JSON: machine, versions, every sample) to FILE")
    bench.add_argument("--device", choices=["cpu", "cuda"], help="where (a GPU, where there is one)")
    bench.add_argument("--tokens", type=int, default=16_384, metavar="N", help="length of the sequence (%(default)s)")
    bench.add_argument("--window", type=int, default=4_096, metavar="W", help="the window (%(default)s)")
    bench.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is timed (%(default)s)")
    return top


def run_lab(args):
    from minimistral.lab import lab

    return lab(args.port, browser=not args.no_browser)


def run_generate(args):
    import minimistral as mm

    sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character should not end the text
    model, tokenizer = mm.load(args.folder) if args.folder else mm.load_tiny()
    if tokenizer is None:
        raise ValueError(f"{args.folder} holds no tokenizer.model: put the model's own beside its weights.")
    options = {name: getattr(args, name) for name in ("temperature", "top_p", "seed", "chunk_size")}
    pieces = mm.stream(model, tokenizer, args.prompt, max_new_tokens=args.max_new_tokens, **options)
    print(args.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def run_bench(args):
    import json
    from pathlib import Path

    import torch

    from minimistral.bench import attention
    from minimistral.config import check_window
    from minimistral.files import write

    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda and PyTorch sees no CUDA device here; leave it out to measure the CPU.")
    check_window(args.window)
    if args.rounds < 2 or args.tokens <= args.window:
        raise ValueError(
            f"--rounds is {args.rounds} and --tokens {args.tokens} with a window of {args.window}; "
            "expected at least 2 rounds, and more tokens than the window."
        )
    if args.out and not Path(args.out).absolute().parent.is_dir():
        raise ValueError(f"--out is {args.out}, and there is no folder {Path(args.out).parent}; make it first.")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    record = attention.run(N=args.tokens, W=args.window, device=device, rounds=args.rounds)
    if args.out:
        write(Path(args.out), (json.dumps(record, indent=1) + "\n").encode())
        print(f"written to {args.out}")
