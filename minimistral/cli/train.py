"""train a small Mistral on a folder of your own texts, or on the package's stories"""

#: what an option is where it is not given; they are None at first, so that --resume can tell which were given
DEFAULTS = dict(steps=None, seconds=None, layers=4, dim=128, window=64, vocab_size=None, seq_len=256, batch_size=4, lr=3e-3,
                seed=0, every=200, tokenizer=None)  # fmt: skip
SECONDS, VOCABULARY = 90.0, 1024
FILE = "train.json"  # in the folder: what it was begun with


def arguments(parser):
    def option(name, kind, metavar, help):
        default = DEFAULTS[name.replace("-", "_")]
        help += "" if default is None else f" ({default})"
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=help)

    parser.add_argument("what", nargs="?", help="a folder of texts, or the word stories: the package's own (stories)")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the model goes, for `minimistral generate --folder`")
    option("steps", int, "N", "stop after so many steps")
    option("seconds", float, "S", f"stop after so many seconds ({SECONDS:g}, if --steps is not given)")
    option("layers", int, "N", "layers")
    option("dim", int, "N", "width of the residual stream, a multiple of 16")
    option("window", int, "W", "the window; 0: none")
    option("vocab-size", int, "V", f"ids of the vocabulary ({VOCABULARY}, or as many as the texts allow)")
    option("tokenizer", str, "FILE", "a tokenizer.model to use instead of learning one")
    option("seq-len", int, "T", "tokens a row")
    option("batch-size", int, "B", "rows a step")
    option("lr", float, "RATE", "the highest learning rate")
    option("seed", int, "N", "of the weights and the rows")
    option("every", int, "N", "steps between checkpoints")
    parser.add_argument("--prompt", default="", help="begin the samples with this text")
    parser.add_argument("--resume", action="store_true", help="go on with the training in --out, as it was begun")


def run(args):
    import sys
    from pathlib import Path

    from minimistral import train

    sys.stdout.reconfigure(errors="replace")
    out = Path(args.out)
    try:
        model, tokenizer, batches, options = (resumed if args.resume else begun)(args, out)
        print(f"{model.n_parameters():,} parameters, a vocabulary of {tokenizer.vocab_size}; into {out}")
        watch = train.Samples(model, tokenizer, args.prompt)
        log = train.fit(model, batches, folder=out, resume=args.resume and (out / "training.pt").exists(), watch=watch, **options)
    except OSError as error:
        raise ValueError(f"{error.filename or out} cannot be used: {error.strerror}.") from None
    print(log)
    if log.interrupted:
        print(f"To go on: minimistral train --out {out} --resume")
        return 130
    print(f'To read it: minimistral generate --folder {out} --temperature 0.8 "{args.prompt or "The"}"')


def begun(args, out):
    """A new training: everything is checked and learned before the first file is written."""
    import json
    import tempfile
    from pathlib import Path

    from minimistral.files import write_all
    from minimistral.tokenizer import Tokenizer

    if there := [name for name in (FILE, "params.json", "config.json") if (out / name).exists()]:
        raise ValueError(f"{out} already holds a model ({there[0]}): choose another --out, or go on with --resume.")
    options = DEFAULTS | {"what": "stories"} | given(args)
    if options["steps"] is None and options["seconds"] is None:
        options["seconds"] = SECONDS
    if 0 < options["seq_len"] <= options["window"]:
        raise ValueError(f"--seq-len is {options['seq_len']} and --window {options['window']}: training would never look past "
                         f"the window. Make --seq-len longer, {2 * options['window']} or more, or --window shorter.")
    sizes(options, 1)
    texts = texts_of(options["what"])
    with tempfile.TemporaryDirectory() as folder:
        if options["tokenizer"]:
            tokenizer = Tokenizer(options["tokenizer"])
        else:
            tokenizer = vocabulary(texts, options["vocab_size"], Path(folder) / "tokenizer.model")
        prepared = prepare(options, texts, tokenizer)
        settings = (json.dumps(options, indent=1) + "\n").encode()
        write_all({out / "tokenizer.model": tokenizer.path.read_bytes(), out / FILE: settings})
    return prepared


def resumed(args, out):
    """The training in `out`, with the options that it was begun with."""
    import json

    from minimistral.tokenizer import Tokenizer

    if not (out / FILE).is_file():
        raise ValueError(f"{out} holds no training to go on with ({FILE} is not there): leave --resume out to begin one.")
    options = json.loads((out / FILE).read_text(encoding="utf-8"))
    if changed := [name for name, value in given(args).items() if options[name] != value]:
        name = changed[0]
        option = name if name == "what" else "--" + name.replace("_", "-")
        raise ValueError(f"{out} was begun with {option} {options[name]}; with --resume it goes on so: leave {option} out.")
    return prepare(options, texts_of(options["what"]), Tokenizer(out / "tokenizer.model"))


def given(args) -> dict:
    """The options that were given; a folder by its whole path, so that one can go on from elsewhere."""
    from pathlib import Path

    found = {name: getattr(args, name) for name in (*DEFAULTS, "what") if getattr(args, name) is not None}
    if found.get("what", "stories") != "stories":
        found["what"] = str(Path(found["what"]).resolve())
    return found


def texts_of(what: str) -> list[str] | None:
    """None stands for the package's stories."""
    from minimistral.texts import read_folder

    return None if what == "stories" else read_folder(what)


def vocabulary(texts, size, file):
    """Learn a tokenizer.model from the texts (None: from stories); without a size, the largest that they allow."""
    from minimistral.texts import VocabularyError, learn_vocabulary
    from minimistral.tiny import stories

    def learn(size):
        return learn_vocabulary(stories.corpus(3000, seed=0) if texts is None else texts, size, file)

    try:
        return learn(size or VOCABULARY)
    except VocabularyError as error:
        if size or not error.possible:
            raise
        return learn(error.possible)


def prepare(options: dict, texts, tokenizer):
    """-> model, tokenizer, batches, and what fit() is to be told."""
    from minimistral import train

    rows = dict(tokenizer=tokenizer, T=options["seq_len"], batch_size=options["batch_size"], seed=options["seed"])
    batches = train.from_stories(**rows) if texts is None else train.from_texts(texts, **rows)
    fit = {name: options[name] for name in ("steps", "seconds", "lr", "every")}
    return train.new_model(sizes(options, tokenizer.vocab_size), options["seed"]), tokenizer, batches, fit


def sizes(options: dict, vocab_size: int):
    """The config of the model that is asked for."""
    from minimistral.config import MistralConfig

    dim, heads = options["dim"], options["dim"] // 16
    if dim < 16 or dim % 16:
        raise ValueError(f"--dim is {dim}: expected a multiple of 16, the size of a head.")
    return MistralConfig(
        dim=dim, n_layers=options["layers"], n_heads=heads, n_kv_heads=heads // 4 if heads % 4 == 0 else 1, head_dim=16,
        hidden_dim=7 * dim // 2, vocab_size=vocab_size, sliding_window=options["window"] or None,
    )  # fmt: skip
