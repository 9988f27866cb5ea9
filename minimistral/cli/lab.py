"""open JupyterLab on the course, in my/, a copy where your work is never overwritten"""


def arguments(parser):
    parser.add_argument("folder", nargs="?", metavar="DIR", help="your copy (the one you are in; else my)")
    parser.add_argument("--port", type=int, default=8888, help="the first port to try (%(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--projector", action="store_true", help="large type, pictures and widgets, for this run only")


def run(args):
    from minimistral.lab import lab

    return lab(args.port, browser=not args.no_browser, folder=args.folder, projector=args.projector)
