"""lay the course's notebooks, without outputs, in a folder of your own; nothing that you changed is ever overwritten"""


def arguments(parser):
    parser.add_argument("folder", metavar="DIR", help="where to; it is made if need be")


def run(args):
    from minimistral import lab

    for line in lab.lay(args.folder):
        print(line)
    count = len(list(lab.find_notebooks().glob("*.ipynb")))
    print(f"The {count} notebooks lie in {args.folder}. To open them: minimistral lab {args.folder}")
