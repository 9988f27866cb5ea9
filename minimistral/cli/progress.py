"""which exercises are solved in your own copy, as its saved notebooks show; nothing is recorded or sent"""


def arguments(parser):
    parser.add_argument("folder", nargs="?", metavar="DIR", help="your copy (the one you are in; else my)")


def run(args):
    import sys

    from minimistral import lab, solved

    text = solved.table(solved.chapters(lab.own(args.folder)))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a Windows pipe, say
        text = text.translate(solved.PLAIN)
    print(text)
