"""write a model folder in the other format: for transformers and its relatives, or as Mistral's own files"""


def arguments(parser):
    parser.add_argument("folder", help="a model folder")
    parser.add_argument("to", help="the folder to write, another one")
    parser.add_argument("--format", choices=["hf", "native"], default="hf", help="which format to write (%(default)s)")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="how many files, for hf (%(default)s)")
    parser.add_argument("--from", dest="source", choices=["hf", "native"], help="which to read, where the folder holds both")


def run(args):
    from minimistral.writing import convert

    convert(args.folder, args.to, args.format, args.shards, args.source)
