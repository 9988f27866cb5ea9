"""The betting slip: kept whole, on this machine, and settled by the ledger's verdicts."""

import json

import pytest

from minimistral import bets, claims


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIMISTRAL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_claims_are_well_formed():
    ids = [claim.id for claim in claims.CLAIMS]
    assert len(ids) == len(set(ids)) == 11
    for claim in claims.CLAIMS:
        assert claim.verdict in claims.VERDICTS and 1 <= claim.chapter <= 12
        assert claim.text.endswith(".") and claim.because.endswith(".") and claim.source
    with pytest.raises(ValueError, match="no claim is called 'nope'; there are parameters,"):
        claims.find("nope")


def test_a_bet_is_kept_and_settled(capsys):
    bets.place("parameters", "true", 90)
    bets.place("apache", "true", 70)
    bets.place("parameters", "imprecise", 60)
    assert bets.load() == {"parameters": {"verdict": "imprecise", "sure": 60}, "apache": {"verdict": "true", "sure": 70}}
    bets.settle("parameters")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "Verdict: imprecise. It has 7,241,732,096: 7.2 billion, rounded.",
        "Your bet: imprecise, 60 % sure: right.",
    ]
    bets.settle("beats-13b")
    assert "You had no bet on this one." in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad,said",
    [
        (("nope", "true", 50), "no claim is called 'nope'"),
        (("apache", "maybe", 50), "verdict is 'maybe'"),
        (("apache", "true", 20), "sure is 20"),
        (("apache", "true", 101), "sure is 101"),
        (("apache", "true", True), "sure is True"),
    ],
)
def test_a_bad_bet_is_refused_and_changes_nothing(bad, said):
    bets.place("apache", "wrong", 40)
    with pytest.raises(ValueError, match=said):
        bets.place(*bad)
    assert bets.load() == {"apache": {"verdict": "wrong", "sure": 40}}


@pytest.mark.parametrize("text", ["{", "[]", '{"apache": 3}', '{"nope": {"verdict": "true", "sure": 50}}'])
def test_an_unreadable_slip_is_set_aside_not_overwritten(home, capsys, text):
    home.mkdir()
    (home / "bets.json").write_text(text)
    assert bets.load() == {}
    assert (home / "bets.unreadable.json").read_text() == text
    assert "could not be read" in capsys.readouterr().out


def test_a_slip_is_summed_up():
    slip = {
        "parameters": {"verdict": "imprecise", "sure": 90},  # right
        "beats-13b": {"verdict": "true", "sure": 80},  # lost
        "apache": {"verdict": "true", "sure": 56},  # right
        "cache-8x": {"verdict": "wrong", "sure": 55},  # lost
        "dangerous": {"verdict": "imprecise", "sure": 34},  # right
    }
    found = bets.calibration(slip)
    assert (found.n, found.right) == (5, 3)
    assert found.brier == pytest.approx((0.1**2 + 0.8**2 + 0.44**2 + 0.55**2 + 0.66**2) / 5)
    assert [(group.name, group.n, group.right) for group in found.groups] == [
        ("a hunch", 2, 1), ("fairly sure", 1, 1), ("very sure", 2, 1),
    ]  # fmt: skip
    assert [group.sure for group in found.groups] == pytest.approx([0.445, 0.56, 0.85])
    assert not bets.path().exists()  # somebody else's slip is not kept


def test_the_learners_slip_is_the_default_and_may_be_empty():
    assert bets.calibration() == bets.Calibration(0, 0, None, ())
    bets.place("apache", "true", 100)
    assert bets.calibration() == bets.Calibration(1, 1, 0.0, (bets.Group("very sure", 1, 1, 1.0),))
    with pytest.raises(ValueError, match="sure is 20"):
        bets.calibration({"apache": {"verdict": "true", "sure": 20}})


def test_every_percentage_lies_in_one_group():
    for sure in range(34, 101):
        assert [group.n for group in bets.calibration({"apache": {"verdict": "true", "sure": sure}}).groups] == [1]


def test_the_form_saves_each_change_and_comes_back():
    from minimistral.widgets.slip import Slip

    slip = Slip()
    assert "No bets yet" in slip.status.value
    words, verdict, sure, _ = slip.children[2].children
    assert claims.CLAIMS[2].text in words.value and sure.disabled
    verdict.value = "wrong"
    sure.value = 80
    assert json.loads(bets.path().read_text()) == {claims.CLAIMS[2].id: {"verdict": "wrong", "sure": 80}}
    assert "1 of 11 bets placed" in slip.status.value
    again = Slip().children[2].children
    assert (again[1].value, again[2].value, again[2].disabled) == ("wrong", 80, False)
    assert slip._repr_mimebundle_()["text/plain"] == Slip().text()  # the same whatever has been bet
