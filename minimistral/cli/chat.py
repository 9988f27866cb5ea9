"""talk to an Instruct model: Ctrl-C stops an answer, Ctrl-D (or an empty line) ends"""


def arguments(parser):
    parser.add_argument("folder", nargs="?", help="a model folder (else the package's small model, which only tells stories)")
    parser.add_argument("--system", help="a system prompt")
    parser.add_argument("--guardrails", action="store_true", help="the paper's system prompt against harmful answers")
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="longest answer (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="above 0: draw (%(default)s)")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw among the likeliest that together hold P (all)")
    parser.add_argument("--seed", type=int, metavar="N", help="draw the same answers each time")


def run(args):
    import sys

    from minimistral.chat import Chat
    from minimistral.cli import load
    from minimistral.moderation import GUARDRAILS

    sys.stdout.reconfigure(errors="replace")
    if args.system and args.guardrails:
        raise ValueError("--system and --guardrails were both given; there is one system prompt: choose one.")
    model, tokenizer = load(args.folder)
    chat = Chat(model, tokenizer, GUARDRAILS if args.guardrails else args.system, max_new_tokens=args.max_new_tokens,
                temperature=args.temperature, top_p=args.top_p, seed=args.seed)  # fmt: skip
    while True:
        try:
            text = input("\nyou> ").strip()
        except EOFError:
            print()
            return
        if not text:
            return
        try:
            for piece in chat.say(text):
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        except ValueError as error:  # this message cannot be read; the conversation stands as it was
            print(error, end="")
            continue
        reused, whole = chat.reused
        print(f"\n({chat.speed:.0f} tokens/s; {reused:,} of {whole:,} tokens were in the cache already)")
