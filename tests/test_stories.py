"""The stories that the tiny model learns from: every recall is decided by the text, and the English holds up."""

import random
import re
from functools import cache
from itertools import islice

import pytest

from minimistral.tiny import stories
from minimistral.tiny.stories import ANIMALS, CHILDREN, ELDERS, WISE_ANIMALS

EVERYONE = {person.word: person.he for person in CHILDREN + ANIMALS + ELDERS + WISE_ANIMALS}
SPOKEN = {"said", "asked", "cried", "called", "came", "he", "she", "they"}


@cache
def sample(n: int = 2000) -> tuple[stories.Story, ...]:
    return tuple(stories.story(random.Random(seed)) for seed in range(n))


@cache
def corpus() -> tuple[str, ...]:
    return tuple(stories.corpus(5000, 0))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def pieces(text: str) -> list[str]:
    """Cut after every full stop, question mark and exclamation mark, also inside of what is said."""
    return re.split(r'(?<=[.!?])"?\s+', text)


def test_the_same_seed_tells_the_same_story():
    assert stories.story(random.Random(3)) == stories.story(random.Random(3))
    assert stories.story(random.Random(3), 60) == stories.story(random.Random(3), 60)
    assert list(stories.corpus(20, 1)) == list(islice(stories.corpus(50, 1), 20))
    assert list(stories.corpus(20, 1)) != list(stories.corpus(20, 2))


def test_stories_differ():
    told = corpus()
    assert len(set(told)) >= 0.95 * len(told)
    assert len({" ".join(text.split()[:12]) for text in told}) > 1000


def test_every_plot_is_told_and_long_enough():
    for plot in stories.PLOTS:
        told = 0
        for seed in range(50):
            teller = stories.Teller(random.Random(seed), None)
            plot(teller)
            told += 90 <= len(teller.text.split()) <= 170
            assert len(teller.recalls) >= 2, plot.__name__
        assert told > 35, plot.__name__


def test_a_story_has_the_size_of_a_story():
    for story in sample():
        assert 90 <= len(story.text.split()) <= 170
        assert 8 <= len(stories.sentences(story.text)) <= 18


def test_recalls_hold():
    for story in sample():
        assert len(story.recalls) >= 2
        for recall in story.recalls:
            start = f"{recall.prompt} {recall.answer}"
            assert story.text.startswith(start) and recall.prompt == recall.prompt.strip()
            assert not story.text[len(start)].isalnum()
            assert recall.answer in recall.candidates
            assert len(set(recall.candidates)) == len(recall.candidates) >= 8
            assert re.search(rf"\b{recall.answer}\b", recall.fact)
            stated = recall.prompt.index(recall.fact) + len(recall.fact)
            assert recall.distance == len(recall.prompt[stated:].split())


def test_the_earlier_text_decides_the_answer():
    """Other candidates may be named, but then the fact ties the answer, and not them, to what is asked."""
    for story in sample():
        for recall in story.recalls:
            named = [word for word in recall.candidates if re.search(rf"\b{word}\b", recall.fact)]
            assert 1 <= len(named) <= 2, recall.fact
            stated = recall.prompt.index(recall.fact) + len(recall.fact)
            between = words(recall.prompt[stated:])
            if recall.kind not in ("holder", "place"):
                # Nothing new of this sort has turned up since, so the fact is still the last word on it.
                assert not (set(between) & {word.lower() for word in recall.candidates}) - set(words(recall.fact))
            if len(named) == 2 and recall.kind != "holder":
                # "Tom hid the key in the teapot, and Anna hid the ring in the jar": what the question says last of
                # Tom, key, Anna and ring is tied to one of the two halves.
                asked = clause_of(recall, named)
                assert asked == recall.answer, (recall.fact, recall.prompt[-90:], recall.answer)


def clause_of(recall, named: list[str]) -> str:
    """The candidate whose half of the fact shares the most recent word with the question.

    Where a sentence gives two facts in two halves, it parts at ", and", at ", while" or at its last "and".
    """
    fact, question = joined(recall.fact), joined(recall.prompt.split(recall.fact)[1])
    fact = re.sub(r"(\w+) gave the (\w+) to (\w+)", r"\3 has the \2", fact)  # after a swap, who has it now
    fact = re.sub(r"(\w+) got the (\w+) from (\w+)", r"\1 has the \2", fact)
    cut = max(fact.rfind(", and "), fact.rfind(", while "))
    cut = fact.rfind(" and ") if cut < 0 else cut
    halves = [set(words(fact[:cut])), set(words(fact[cut:]))]
    assert all(half & {word.lower() for word in named} for half in halves), fact
    common = set(stories.FUNCTION_WORDS) | {"gave", "put", "got", "took", "last"} | {word.lower() for word in named}
    first, second = ({word for word in half if len(word) > 2} - common for half in halves)
    unique = {named[0]: first - second, named[1]: second - first}
    if named[0].lower() not in words(fact[:cut]):
        unique = {named[1]: first - second, named[0]: second - first}
    # A thing decides before a person does: "Where is the key?" asked Anna.
    people = {joined(name).lower() for name in EVERYONE}
    last = words(question)[::-1]
    for word in [word for word in last[:14] if word not in people] + [word for word in last[:25] if word in people]:
        for name, half in unique.items():
            if word in half:
                return name
    raise AssertionError((recall.fact, recall.prompt[-90:]))


def joined(text: str) -> str:
    """Names of two words as one: "AuntRose"."""
    return re.sub(r"\b(Mother|Old|Grandfather|Aunt|Uncle) (?=[A-Z])", r"\1", text)


@pytest.mark.parametrize("distance", [5, 8, 12, 20, 33, 50, 64, 90, 130, 200])
def test_the_asked_distance_is_kept(distance):
    for seed in range(20):
        story = stories.story(random.Random(seed), distance)
        assert abs(story.recalls[0].distance - distance) <= 6
        told = stories.sentences(story.text)
        assert len(set(told)) == len(told)


def test_natural_distances_fit_a_window():
    near = [story.recalls[0].distance <= 38 for story in sample()]
    assert 0.8 < sum(near) / len(near) < 1


def test_punctuation():
    for story in sample():
        text = story.text
        assert text.isascii() and "  " not in text and text == text.strip()
        assert text.count('"') % 2 == 0
        assert not re.search(r"[{}\[\]|<>_]|\bNone\b", text)
        assert not re.search(r' [.,!?]|[.,!?]{2}|""', text)
        opened = False
        for before, _, after in re.findall(r'(.?)(")(.?)', text):
            opened = not opened
            assert (before in ("", " ") and after.isalpha()) if opened else (before in ".,!?" and after in ("", " "))


def test_sentences_begin_with_a_capital_and_end():
    for story in sample():
        assert story.text[-1] in '.!?"' and story.text.rstrip('"')[-1] in ".!?"
        for piece in pieces(story.text):
            assert piece.lstrip('"')[0].isupper() or piece.split()[0] in SPOKEN, piece


def test_articles():
    for story in sample():
        assert not re.search(r"\b[Aa] [aeiou]", story.text), story.text
        assert not re.search(r"\b[Aa]n [^aeiou]", story.text), story.text
        assert not re.search(r"\b(\w+) \1\b", story.text), story.text


def test_pronouns_agree_with_names():
    names = "|".join(EVERYONE)
    seen = 0
    for story in sample():
        told = stories.sentences(story.text)
        for before, sentence in zip(told, told[1:], strict=False):
            start = re.match(r"(He|She)\b", sentence)
            if start:  # someone of this sort was named just before
                last = re.findall(rf"\b({names})\b", " ".join(told[: told.index(sentence)]))[-2:]
                assert start[1].lower() in {EVERYONE[name] for name in last}, (before, sentence)
                seen += 1
        # What someone does with their own things: "Tom shut his eyes", "Grandma opened her bag".
        own = rf"\b({names}) (?:took|opened|shut|missed|wanted|shook|put|clapped|held|licked) (his|her)\b"
        for name, pronoun in re.findall(own, story.text):
            assert {"his": "he", "her": "she"}[pronoun] == EVERYONE[name], story.text
            seen += 1
        for sort, name in re.findall(r"\b(girl|boy) called (\w+)", story.text):
            assert EVERYONE[name] == {"girl": "she", "boy": "he"}[sort]
    assert seen > 1000


def test_no_sentence_is_told_twice():
    for story in sample():
        told = stories.sentences(story.text)
        assert len(set(told)) == len(told)


def test_weather_keeps_to_its_season():
    for story in sample():
        text = story.text.lower()
        if "snowy" in text or "frosty" in text or "snow lay deep" in text:
            assert not re.search(r"\b(bees?|butterflies|flowers?|lizard|frog|rain|heat)\b", text), text
        if "summer" in text or "hot day" in text:
            assert not re.search(r"\b(snow|frost|ice|fire)\b", text), text


def test_the_words_are_few():
    vocabulary = {word for text in corpus() for word in words(text)}
    assert 900 <= len(vocabulary) <= 1300
