"""measure this machine: attention, prefill, decode, load, train, or all of them within some eight minutes"""

KINDS = ("attention", "prefill", "decode", "load", "train", "all")


def arguments(parser):
    parser.add_argument("what", choices=KINDS, help="what to measure")
    parser.add_argument("--out", metavar="FILE", help="write the record (JSON: machine, versions, every sample) to FILE")
    parser.add_argument("--force", action="store_true", help="let FILE be overwritten")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="where (a GPU, where there is one)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is timed (%(default)s)")
    parser.add_argument("--tokens", type=int, default=16_384, metavar="N", help="attention: length of the sequence (%(default)s)")
    parser.add_argument("--window", type=int, default=4_096, metavar="W", help="attention: the window (%(default)s)")


def run(args):
    import json
    from importlib import import_module
    from pathlib import Path

    import torch

    from minimistral.bench import all as everything
    from minimistral.cli import check_out
    from minimistral.config import check_window
    from minimistral.files import write

    out = args.out and Path(args.out)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda and PyTorch sees no CUDA device here; leave it out to measure the CPU.")
    check_window(args.window)
    if args.rounds < 2 or args.tokens <= args.window:
        raise ValueError(
            f"--rounds is {args.rounds} and --tokens {args.tokens} with a window of {args.window}; "
            "expected at least 2 rounds, and more tokens than the window."
        )
    check_out(args.out)
    if out and out.exists() and not args.force:
        raise ValueError(f"--out is {out}, which exists; give another name, or --force to overwrite it.")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def keep(record):
        if out:
            write(out, (json.dumps(record, indent=1) + "\n").encode())

    if args.what == "all":
        record = everything.run(device, args.rounds, keep=keep)
        print(f"\n{everything.tables(record)}")
    elif args.what == "attention":
        record = import_module("minimistral.bench.attention").run(
            N=args.tokens, W=args.window, device=device, rounds=args.rounds)  # fmt: skip
    else:
        try:
            record = everything.one(args.what, device, args.rounds, None)
        except ImportError as error:
            raise ValueError(f"bench {args.what} needs {error.name}, which is not installed.") from None
    keep(record)
    if out:
        print(f"written to {out}")
    return 130 if record.get("interrupted") else 0
