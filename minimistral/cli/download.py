"""get the 7B (or another Mistral) from the Hugging Face hub: one format, resumable, checked"""


def arguments(parser):
    parser.add_argument("repository", help="v0.1, v0.2 or v0.3, each also with -instruct; or OWNER/NAME on the hub")
    parser.add_argument("--to", metavar="DIR", help="the folder to put it in (models/NAME)")
    parser.add_argument("--format", choices=["native", "hf"], help="which files, where there are both (Mistral's own)")
    parser.add_argument("--revision", metavar="REV", help="a branch, tag or commit (main)")


def run(args):
    import sys

    from minimistral import hub

    try:
        folder = hub.download(args.repository, args.to, args.format, args.revision)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it stopped", file=sys.stderr)
        raise
    print(f"{folder} is whole: minimistral doctor {folder} says where it fits")
