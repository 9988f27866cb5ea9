"""Everything that this machine can measure, one benchmark after another, within some eight minutes."""

from importlib import import_module
from inspect import signature

from minimistral.bench import measure
from minimistral.bench.report import table

#: benchmark -> its share of the time
SHARES = {"attention": 0.25, "prefill": 0.3, "decode": 0.25, "train": 0.1, "load": 0.1}
SECONDS = 400  # of timing; making models and checking them comes to it


def run(device: str = "cpu", rounds: int = 5, seconds: float = SECONDS, keep=lambda record: None, only=tuple(SHARES)) -> dict:
    """Measure all; return one record with all records in it. keep(record) is called after each, to save what there is.

    A benchmark that cannot run here says why and the rest goes on. After Ctrl-C the record holds what was measured.
    """
    whole: dict = {"benchmark": "all", "machine": measure.machine(device), "records": [], "absent": {}}
    try:
        for kind in only:
            print(f"\n=== {kind} ===", flush=True)
            try:
                record = one(kind, device, rounds, seconds * SHARES[kind])
            except Exception as error:
                whole["absent"][kind] = measure.reason(error)
                print(f"{kind}: {whole['absent'][kind]}")
                measure.free(device)
                continue
            whole["records"].append(record)
            keep(whole)
            if record.get("interrupted"):
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        whole["interrupted"] = True
    keep(whole)
    return whole


def one(kind: str, device: str, rounds: int, seconds: float) -> dict:
    """Run one benchmark with what it understands of these settings."""
    call = import_module(f"minimistral.bench.{kind}").run
    known = dict(device=device, rounds=rounds, within=seconds, seconds=seconds, layers=2)
    return call(**{name: value for name, value in known.items() if name in signature(call).parameters})


def tables(whole: dict) -> str:
    """The records of run() in words and columns, and why what is absent is absent."""
    told = [str(table(record)) for record in whole["records"]]
    told += [f"{kind}: {why}" for kind, why in whole["absent"].items()]
    return "\n\n".join(told)
