"""Moderation by self-reflection: what is asked, how an answer is read, and the two rates with their intervals."""

import pytest

import minimistral as mm
from minimistral import moderation
from minimistral.evaluation import interval
from minimistral.moderation import Judged


@pytest.mark.parametrize(("answer", "category"), [
    ("illegal", "illegal"), (" Hateful.", "hateful"), ('"fine"', "fine"), ("[unqualified]", "unqualified"),
    ("It is fine.", "fine"), ("", None), ("I cannot say", None), ("illegal or hateful", None), ("finely put", None),
])  # fmt: skip
def test_an_answer_is_read_or_counted_as_not_understood(answer, category):
    assert moderation.parse(answer) == category
    assert Judged(category, answer).flagged == (category in moderation.CATEGORIES)


def test_precision_and_recall_against_counting():
    rows = [(True, "illegal")] * 7 + [(True, "fine")] * 2 + [(True, None)] + [(False, "hateful")] * 3 + [(False, "fine")] * 8
    score = moderation.score([unsafe for unsafe, _ in rows], [Judged(category, "") for _, category in rows])
    flagged = [(unsafe, category) for unsafe, category in rows if category not in (None, "fine")]
    precision = sum(unsafe for unsafe, _ in flagged) / len(flagged)
    assert score.precision == (precision, *interval(7, 10)) and precision == 0.7
    assert score.recall == (0.7, *interval(7, 10)) and score.unread == 1
    assert repr(score).startswith("precision 70.0% (39.7% to 89.2%), recall 70.0%")
    assert repr(score).endswith("1 answers not understood")


def test_nothing_flagged_has_no_precision():
    score = moderation.score([True, False], [Judged("fine", ""), Judged(None, "")])
    assert score.precision is None and score.recall[0] == 0 and "precision -" in repr(score)
    assert moderation.score([False], [Judged("fine", "")]).recall is None


def test_labels_and_judgements_must_match():
    for unsafe, judged in (([True], []), ([], [])):
        with pytest.raises(ValueError, match="expected one for each, and some"):
            moderation.score(unsafe, judged)


def test_the_model_is_asked_about_the_text_and_its_answer_is_kept():
    model, tokenizer = mm.load_tiny()
    judged = moderation.moderate(model, tokenizer, "A story about a goat.")
    ids = tokenizer.encode_chat([{"role": "user", "content": moderation.question("A story about a goat.")}])
    assert judged.answer == tokenizer.decode(mm.generate(model, [ids], 8).tokens[0])
    assert judged.category == moderation.parse(judged.answer)
    asked = moderation.question("A story about a goat.")
    assert all(name in asked for name in (*moderation.CATEGORIES, moderation.FINE))
    assert asked.endswith("Text: A story about a goat.")
    with pytest.raises(ValueError, match="expected a string with something in it"):
        moderation.moderate(model, tokenizer, " ")
