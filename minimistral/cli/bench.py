"""measure this machine: attention over a window against full causal attention"""


def arguments(parser):
    parser.add_argument("what", choices=["attention"], help="what to measure")
    parser.add_argument("--out", metavar="FILE", help="write the record (JSON: machine, versions, every sample) to FILE")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="where (a GPU, where there is one)")
    parser.add_argument("--tokens", type=int, default=16_384, metavar="N", help="length of the sequence (%(default)s)")
    parser.add_argument("--window", type=int, default=4_096, metavar="W", help="the window (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is timed (%(default)s)")


def run(args):
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
