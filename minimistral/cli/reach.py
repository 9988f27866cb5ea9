"""measure how far back a stack of windows looks: one fact (cliff), with layers that see all (hybrid), several facts (stories)"""


def arguments(parser):
    parser.add_argument("what", choices=["cliff", "hybrid", "stories"], help="which experiment")
    parser.add_argument("--layers", type=int, nargs="+", default=[2], metavar="L", help="depths (2)")
    parser.add_argument("--window", nargs="+", default=["16"], metavar="W",
                        help="windows; none: full attention; in a hybrid one for each layer, as 16,none,16,16 (16)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how often: seeds 0 to N-1 (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="start from this one instead (%(default)s)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of training (what is enough for the depth)")
    parser.add_argument("--questions", type=int, metavar="N", help="asked at each point (256 for the cliff, 128 for stories)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads; small models want one (%(default)s)")
    parser.add_argument("--out", metavar="FILE", help="write the record to FILE after each run (JSON); keeps the runs in it")
    parser.add_argument("--save", metavar="FOLDER", help="keep the trained models below FOLDER")


def run(args):
    import torch

    from minimistral.cli import check_out
    from minimistral.reach import runs, show

    for name in ("seeds", "steps", "questions", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}; expected at least 1.")
    if args.first_seed < 0:
        raise ValueError(f"--first-seed is {args.first_seed}; expected 0 or more.")
    windows = [parsed(text) for text in args.window]
    shapes = [(layers, window) for window in windows for layers in ([len(window)] if isinstance(window, tuple) else args.layers)]
    check_out(args.out)
    torch.set_num_threads(args.threads)
    record = runs.run(
        args.what, shapes,
        range(args.first_seed, args.first_seed + args.seeds), args.out, n=args.questions, steps=args.steps, save=args.save,
        command=spelled(args),
    )
    print(show.verdict(record))
    if args.out:
        print(f"written to {args.out}")


def parsed(text: str) -> int | None | tuple:
    """One word behind --window: a number, none, or a list of these with commas."""
    if "," in text:
        return tuple(parsed(each) for each in text.split(","))
    if text.lower() in ("none", "full"):
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--window has {text!r}; expected a whole number, or none for full attention.") from None


def spelled(args) -> str:
    """The command that makes this record again."""
    layers = [] if args.what == "hybrid" else ["--layers", *args.layers]  # a hybrid has as many as its list has windows
    words = ["minimistral reach", args.what, *layers, "--window", *args.window, "--seeds", args.seeds]
    for name in ("first_seed", "steps", "questions"):
        if value := getattr(args, name):
            words += ["--" + name.replace("_", "-"), value]
    return " ".join(map(str, words))
