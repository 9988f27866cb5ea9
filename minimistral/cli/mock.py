"""make a folder laid out as Mistral 7B's, with random weights, to try loading on"""


def arguments(parser):
    parser.add_argument("folder", help="where to")
    parser.add_argument("--version", choices=["v0.1", "v0.2", "v0.3"], default="v0.1", help="whose shapes (%(default)s)")
    parser.add_argument("--format", choices=["hf", "native", "pth"], default="hf",
                        help="shards with an index, one consolidated.safetensors, or consolidated.00.pth (%(default)s)")
    parser.add_argument("--shards", type=int, default=3, metavar="N", help="how many files, for hf (%(default)s)")
    parser.add_argument("--layers", type=int, metavar="N", help="how many layers (all 32)")
    parser.add_argument("--full", action="store_true", help="at full width, 14.5 GB (else every width is a 32nd: 30 MB)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which random weights (%(default)s)")


def run(args):
    from dataclasses import replace

    from minimistral import mock

    config = mock.CONFIGS[args.version]
    if args.layers is not None:
        config = replace(config, n_layers=args.layers)
    config = config if args.full else mock.narrow(config)
    mock.write(args.folder, config, format=args.format, shards=args.shards, seed=args.seed)
