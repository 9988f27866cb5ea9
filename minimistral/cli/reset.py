"""bring one chapter of your own copy back to its untouched state; what you had is kept beside it under a dated name"""


def arguments(parser):
    parser.add_argument("chapter", metavar="CHAPTER", help="its number, as 5 or 12b, or its file's name")
    parser.add_argument("folder", nargs="?", metavar="DIR", help="your copy (the one you are in; else my)")


def run(args):
    from minimistral import lab

    kept = lab.reset(args.chapter, lab.own(args.folder))
    name = lab.find_chapter(args.chapter, lab.find_notebooks())
    if kept:
        print(f"{name} is as new; what you had is kept as {', '.join(path.name for path in kept)}.")
        print("If it is open in JupyterLab: File > Reload Notebook from Disk.")
    else:
        print(f"{name} is as new; there was nothing to keep.")
