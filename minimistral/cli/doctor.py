"""what this machine can run of the course, and whether a model folder is whole and fits"""


def arguments(parser):
    parser.add_argument("folder", nargs="?", help="a model folder to look at")
    parser.add_argument("--tokens", type=int, default=4096, metavar="N", help="of the text: a cache without window (%(default)s)")
    parser.add_argument("--chunk-size", type=int, default=512, metavar="N", help="tokens of a prompt fed at a time (%(default)s)")


def run(args):
    from minimistral import doctor

    report = doctor.examine(args.folder, args.tokens, args.chunk_size)
    print(report)
    return 1 if report.missing else 0
