"""continue a text"""

import os
import sys


def arguments(parser):
    parser.add_argument("prompt", help="the text to continue")
    parser.add_argument("--folder", help="a model folder (the small model that comes with the package)")
    parser.add_argument("--max-new-tokens", type=int, default=200, metavar="N", help="how many tokens at most (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="above 0: draw (%(default)s)")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw among the likeliest that together hold P (all)")
    parser.add_argument("--seed", type=int, metavar="N", help="draw the same text each time")
    parser.add_argument("--chunk-size", type=int, metavar="N", help="feed the prompt N tokens at a time (all at once)")
    parser.add_argument("--parallel", action="store_true", help="divide the model among the processes that torchrun started")


def run(args):
    from minimistral.cli import load
    from minimistral.generation import stream

    sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character should not end the text
    model, tokenizer = load(args.folder, args.parallel)
    if args.parallel and os.environ["RANK"] != "0":
        sys.stdout = None  # all say the same: one is enough
    options = {name: getattr(args, name) for name in ("temperature", "top_p", "seed", "chunk_size")}
    pieces = stream(model, tokenizer, args.prompt, max_new_tokens=args.max_new_tokens, **options)
    print(args.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
