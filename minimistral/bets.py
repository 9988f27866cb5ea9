"""The betting slip: a learner's verdict on each claim and how sure they were, kept on their own machine.

It lies in bets.json under $MINIMISTRAL_HOME, or else ~/.minimistral, and nowhere else.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from minimistral import claims
from minimistral.files import write


def path() -> Path:
    """Where the slip lies, whether there is one yet or not."""
    return Path(os.environ.get("MINIMISTRAL_HOME") or Path.home() / ".minimistral") / "bets.json"


def load() -> dict[str, dict]:
    """Claim id -> {"verdict": ..., "sure": percent}. A file that cannot be read is set aside, not overwritten."""
    try:
        slip = json.loads(path().read_text(encoding="utf-8"))
        return {id: _checked(id, **bet) for id, bet in slip.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError):
        aside = path().with_suffix(".unreadable.json")
        os.replace(path(), aside)
        print(f"Your betting slip could not be read; it was kept as {aside.name}, and a new one begun.")
        return {}


def place(id: str, verdict: str, sure: int = 50):
    """Bet on one claim: verdict is true, imprecise or wrong; sure is in percent, 34 (a guess among three) to 100."""
    bet = _checked(id, verdict, sure)
    slip = load() | {id: bet}
    write(path(), (json.dumps(slip, indent=2) + "\n").encode())


def settle(id: str):
    """Print a claim's verdict and reason and, where a bet was placed, how it went."""
    claim, bet = claims.find(id), load().get(id)
    print(f"“{claim.text}” ({claim.source})")
    print(f"Verdict: {claim.verdict}. {claim.because}")
    if bet is None:
        print("You had no bet on this one.")
    else:
        went = "right" if bet["verdict"] == claim.verdict else "lost"
        print(f"Your bet: {bet['verdict']}, {bet['sure']} % sure: {went}.")


#: whole percentages, lowest and highest of each group
GROUPS = {"a hunch": (34, 55), "fairly sure": (56, 79), "very sure": (80, 100)}


@dataclass(frozen=True)
class Group:
    """The bets placed about as surely as each other: how many, how many were right, and how sure on average (0 to 1)."""

    name: str
    n: int
    right: int
    sure: float


@dataclass(frozen=True)
class Calibration:
    """How well someone knew what they knew. brier: 0 at best, 1 at worst; None without bets."""

    n: int
    right: int
    brier: float | None
    groups: tuple[Group, ...]


def calibration(slip: dict[str, dict] | None = None) -> Calibration:
    """Sum up a slip, the learner's if none is given: the mean of (sure - right)², right being 1 or 0, and the bets by how sure.

    Source of the score: Brier 1950, for the event "my verdict is right".
    """
    slip = load() if slip is None else {id: _checked(id, **bet) for id, bet in slip.items()}
    bets = [(bet["sure"] / 100, bet["verdict"] == claims.find(id).verdict) for id, bet in slip.items()]
    groups = []
    for name, (low, high) in GROUPS.items():
        if own := [(sure, right) for sure, right in bets if low <= round(100 * sure) <= high]:
            groups.append(Group(name, len(own), sum(right for _, right in own), sum(sure for sure, _ in own) / len(own)))
    brier = sum((sure - right) ** 2 for sure, right in bets) / len(bets) if bets else None
    return Calibration(len(bets), sum(right for _, right in bets), brier, tuple(groups))


def _checked(id, verdict, sure) -> dict:
    claims.find(id)
    if verdict not in claims.VERDICTS:
        raise ValueError(f"verdict is {verdict!r}; expected one of {', '.join(claims.VERDICTS)}.")
    if not isinstance(sure, int) or isinstance(sure, bool) or not 34 <= sure <= 100:
        raise ValueError(f"sure is {sure!r}; expected a whole percentage from 34 to 100.")
    return {"verdict": verdict, "sure": sure}
