"""run public benchmarks (lm-evaluation-harness) on a model folder"""


def arguments(parser):
    parser.add_argument("folder", help="a model folder")
    parser.add_argument("--tasks", required=True, metavar="A,B", help="names of tasks, such as mmlu,gsm8k,humaneval")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each task")
    parser.add_argument("--num-fewshot", type=int, metavar="N", help="examples before each question (the task's own number)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="texts at once (%(default)s)")
    parser.add_argument("--include", metavar="DIR", help="a folder with tasks of your own")
    parser.add_argument("--run-code", action="store_true", help="allow tasks that run programs the model writes, shut in")
    parser.add_argument("--unsafe", action="store_true", help="run them also where they cannot be shut in")
    parser.add_argument("--out", metavar="FILE", help="write the whole report (JSON, every answer) to FILE")


def run(args):
    import json
    from pathlib import Path

    from minimistral import harness
    from minimistral.cli import check_out, load
    from minimistral.config import check_count
    from minimistral.files import write

    check_count("--batch-size", args.batch_size)
    if args.limit is not None:
        check_count("--limit", args.limit)
    check_out(args.out)
    tasks = [name.strip() for name in args.tasks.split(",") if name.strip()]
    model, tokenizer = load(args.folder)
    options = {name: getattr(args, name) for name in ("limit", "include", "batch_size", "num_fewshot", "unsafe")}
    report = harness.evaluate(model, tokenizer, tasks, run_code=args.run_code or args.unsafe, **options)
    for task, scores in report["results"].items():
        for name, value in scores.items():
            if isinstance(value, float) and "stderr" not in name:
                print(f"{task:<32} {name:<28} {value:.4f}")
    for what, times in sorted(report["programs"].items(), key=lambda item: -item[1]):
        print(f"{times:>6} programs: {what}")
    if args.out:
        write(Path(args.out), (json.dumps(report, indent=1, default=str) + "\n").encode())
        print(f"written to {args.out}")
