"""notebooks/glossary.md: a chapter introduces each word and links to it, and no page uses one unexplained."""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat
import pytest

from minimistral import course, lab

NOTEBOOKS = course.NOTEBOOKS
PAGES = [NOTEBOOKS / "glossary.md", NOTEBOOKS / "paper_to_code.md"]
CHAPTERS = {chapter.file.split("_")[0]: chapter for chapter in (*course.CHAPTERS, *course.APPENDICES)}  # "00", "12b"
ENTRY = re.compile(
    r'^<a id="(?P<anchor>[^"]+)"></a>\*\*(?P<name>[^*]+)\*\* \((?P<chapters>\[[^)]+\)(?:, \[[^)]+\))*)\): (?P<text>.+)$'
)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)")

#: what counts as a use, where the name with an s or without is not all of it. Bare words wherever they do not cry wolf
USES = {
    "attention-sink": r"\bsinks?\b",
    "bigram-table": r"\bbigrams?\b",
    "bpe": r"\bBPE\b|byte-pair",
    "bfloat16": r"\bbfloat16\b|\bbf16\b",
    "cache": r"\bcach(?:es?|ed)\b",
    "causal": r"\bcausal(?:ly)?\b",
    "clipping": r"\bclip(?:ping|ped|s)?\b",
    "accumulation": r"\baccumulat",
    "calibrated": r"\bcalibrat",
    "few-shot": r"\bfew-shot\b|\b\d-shot\b",
    "grouped-query-attention": r"grouped-query|\bGQA\b",
    "growing-cache": r"\bgrowing cache|\bcache that grows",
    "half-split": r"\bhalf-split\b",
    "hidden-layer": r"\bhidden\b(?! from)",
    "instruct-model": r"\bInstruct\b",
    "log-sum-exp": r"\blog-?sum-?exps?\b",
    "mask": r"\bmask(?:s|ed|ing)?\b",
    "memory-bound": r"memory-bound|bound by bytes",
    "meta-device": r"\bmeta device",
    "mixture-of-experts": r"\bexperts?\b",
    "multi-head-attention": r"\bmulti-head attention\b|\bMHA\b",
    "multi-head-latent-attention": r"\blatent\b|\bMLA\b",
    "multi-query-attention": r"\bmulti-query\b|\bMQA\b",
    "nan": r"\bNaNs?\b|not a number",
    "operation": r"\boperations?\b|\bT?FLOPs?\b",
    "paged-attention": r"\bpaged\b",
    "pre-fill": r"\bpre-?fill",
    "quantization": r"\bquanti[sz]|\bint[48]\b",
    "query": r"\bquer(?:y|ies)\b",
    "residual-stream": r"\bresidual\b|\bthe stream\b",
    "ring": r"\brings?\b|rolling buffer",
    "roofline": r"\brooflines?\b",
    # a model's scores of possible next words are logits, and in chapter 12 a score is a number of right answers
    "score": r"\bscores? of (?:a|the|each|all|future) (?:keys?|future|token)\b|\battention scores?\b",
    "silu": r"\bsilu\b|\bsigmoid\b",
    "softmax": r"\bsoftmax",
    "speculative-decoding": r"\bspeculative\b",
    "system-message": r"\bsystem (?:message|prompt|text)s?\b",
    "theta": r"θ|\btheta\b",
    "top-k": r"\btop-k\b",
    "top-p": r"\btop-p\b",
    "unbiased": r"\bunbiased\b",
    "vocabulary": r"\bvocabular(?:y|ies)\b",
    "warm-up": r"\bwarm-up\b",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    anchor: str
    name: str
    chapters: tuple[str, ...]  # "00", "12b"; the first introduces it
    links: tuple[str, ...]
    text: str

    @property
    def uses(self) -> re.Pattern:
        """Finds the word in prose, in capitals or not."""
        return re.compile(USES.get(self.anchor, rf"\b{re.escape(self.name)}s?\b"), re.IGNORECASE)


def entries() -> list[Entry]:
    """The lines below the heading Words."""
    found = []
    for line in words_of(PAGES[0]):
        match = ENTRY.match(line)
        assert match, f"the glossary has a line that is no entry: {line[:80]}"
        numbers, links = zip(*re.findall(r"\[(\w+)\]\(([^)]+)\)", match["chapters"]), strict=True)
        found.append(Entry(match["anchor"], match["name"], numbers, links, match["text"]))
    return found


def words_of(page: Path) -> list[str]:
    return [line for line in page.read_text(encoding="utf-8").split("## Words\n")[1].splitlines() if line]


@cache
def cells(number: str) -> tuple[str, ...]:
    """The Markdown of a chapter, a string a cell; none where it is not written yet."""
    if not CHAPTERS[number].written:
        return ()
    nb = nbformat.read(NOTEBOOKS / CHAPTERS[number].file, as_version=4)
    return tuple(cell.source for cell in nb.cells if cell.cell_type == "markdown")


@cache
def prose(markdown: str) -> str:
    """What is read as sentences: no code, formulas, headings, neighbours, HTML, stars, or addresses but the glossary's."""
    text = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not re.match(r"    |#+ |\*Proved in|\[(← )?\d\d", line))
    text = re.sub(r"<code>.*?</code>|`[^`\n]*`|\$+[^$]*\$+", "…", text)
    text = re.sub(r"\[([^\[\]]*)\]\((?!glossary\.md#)[^)]*\)", r"\1", text)
    return re.sub(r"</?[a-z][^>]*>", " ", text).replace("*", "")


def unlinked(text: str) -> str:
    """Prose without the addresses of glossary links either."""
    return re.sub(r"\[([^\[\]]*)\]\(glossary\.md#[^)]*\)", r"\1", text)


def unexplained(entry: Entry, book: dict[str, tuple[str, ...]]) -> list[str]:
    """The chapters, up to the one that introduces the word, in which it stands before it is linked, each with its sentence.

    The words of the link itself do not count: it may well be the first use.
    """
    found = []
    for number in sorted(book):
        if number > entry.chapters[0]:
            break
        text = "\n\n".join(map(prose, book[number]))
        link = re.search(rf"\[[^\[\]]*\]\(glossary\.md#{re.escape(entry.anchor)}\)", text)
        before = unlinked(text[: link.start()] if link else text)
        if use := entry.uses.search(before):
            found.append(f"{number}: …{before[max(0, use.start() - 60) : use.end() + 30]}…")
    return found


def github(heading: str) -> str:
    """The anchor that GitHub gives a heading: small letters, no punctuation, hyphens for spaces."""
    kept = "".join(c for c in heading.strip().lower() if c in "-_ " or unicodedata.category(c)[0] in "LN")
    return kept.replace(" ", "-")


def jupyter(heading: str) -> str:
    """The anchor that JupyterLab gives a heading: as it is, hyphens for spaces."""
    return heading.strip().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """What can be linked to on a Markdown page from GitHub and from JupyterLab alike."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return set(re.findall(r'<a id="([^"]+)"></a>', text)) | {github(h) for h in headings} & {jupyter(h) for h in headings}


def dead(target: str, page: Path) -> bool:
    """Whether a link on a page leads nowhere. To a chapter that is not written yet it may lead."""
    name, _, anchor = target.partition("#")
    if re.match(r"[a-z]+:", name):
        return False
    path = page.parent / name if name else page
    if not path.exists():
        return name not in [chapter.file for chapter in CHAPTERS.values()]
    return bool(anchor) and (path.suffix != ".md" or anchor not in anchors(path))


def alphabetical(names) -> list[str]:
    return sorted(names, key=lambda name: re.sub("[^a-z0-9]", "", name.lower()))


# --- the page -----------------------------------------------------------------------------------------------------------

ENTRIES = entries()
each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.anchor)


def test_the_page_has_the_words_of_the_course():
    assert len(ENTRIES) > 100
    assert set(USES) <= {entry.anchor for entry in ENTRIES}
    assert {entry.chapters[0] for entry in ENTRIES} == {f"{n:02}" for n in range(15) if n != 13} | {"12b"}


def test_entries_are_in_order_and_anchors_unique():
    names = [entry.name for entry in ENTRIES]
    assert names == alphabetical(names)
    every = re.findall(r'<a id="([^"]+)"></a>', PAGES[0].read_text(encoding="utf-8"))
    assert sorted(set(every)) == sorted(every)
    for entry in ENTRIES:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.anchor), f"{entry.anchor}: GitHub and JupyterLab may not agree on it"


@each_entry
def test_an_entry_names_chapters_of_the_course(entry):
    assert [CHAPTERS[number].file for number in entry.chapters] == list(entry.links)
    assert list(entry.chapters) == sorted(set(entry.chapters))
    assert len(re.findall(r"[.;] |\.$", entry.text)) <= 3, "one or two sentences"


@each_entry
def test_the_chapter_that_introduces_a_word_links_to_it(entry):
    if CHAPTERS[entry.chapters[0]].written:
        assert any(f"](glossary.md#{entry.anchor})" in cell for cell in cells(entry.chapters[0]))


@each_entry
def test_no_page_uses_a_word_before_it_is_explained(entry):
    assert unexplained(entry, {number: cells(number) for number in CHAPTERS}) == []


@each_entry
def test_the_word_is_used_at_all(entry):
    """A pattern that finds nothing would pass every page."""
    written = [number for number in entry.chapters if CHAPTERS[number].written]
    if written:
        assert any(entry.uses.search(unlinked(prose(cell))) for number in written for cell in cells(number))


@pytest.mark.parametrize("number", CHAPTERS)
def test_a_chapter_is_no_sea_of_links(number):
    linked = [target for cell in cells(number) for target in LINK.findall(cell) if target.startswith("glossary.md")]
    assert len(set(linked)) == len(linked), "the introducing place only"
    assert [target for target in linked if dead(target, NOTEBOOKS / "here.ipynb")] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=lambda page: page.name)
def test_all_links_lead_somewhere(page):
    targets = LINK.findall(re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8")))
    assert len(targets) > 30
    assert [target for target in targets if dead(target, page)] == []


def test_the_learners_copy_has_the_pages(tmp_path):
    lab.sync(NOTEBOOKS, tmp_path)
    for page in PAGES:
        laid = (tmp_path / page.name).read_text(encoding="utf-8")  # links to the repository would be dead there: words
        assert laid == re.sub(r"\[([^]]*)\]\(\.\./[^)]*\)", r"\1", page.read_text(encoding="utf-8"))


# --- the letters --------------------------------------------------------------------------------------------------------


def letters() -> set[str]:
    """The first column of the table of letters: B, T, S, ..."""
    told = PAGES[0].read_text(encoding="utf-8").split("## Letters\n")[1].split("## Colours")[0]
    return set(re.findall(r"^\| ([A-Z]\w*|dim) \|", told, flags=re.MULTILINE))


def shapes(markdown: str) -> list[str]:
    """The shapes in a text, such as (B, H, T, D): brackets with sizes in them, one of which is a capital letter at least."""
    size = r"(?:\w+(?: ?[·*+] ?\w+)*|\.{3})"
    return re.findall(rf"\((?=[^()]*\b[A-Z]\b){size}(?:, ?{size}?)+\)", markdown)


@pytest.mark.parametrize("number", CHAPTERS)
def test_shapes_are_written_in_these_letters(number):
    other = [shape for cell in cells(number) for shape in shapes(cell) if set(re.findall(r"\b[A-Z]\w*", shape)) - letters()]
    assert other == []


def test_the_letters_of_the_house():
    assert letters() == {"B", "T", "S", "H", "Hkv", "D", "dim", "W", "C", "L", "V", "N"}
    said = "q (B, H, T, D), `w` (H · D, dim), (T,), (1, 2), (A), (so, W says) and `f(x, W)`"
    assert shapes(said) == ["(B, H, T, D)", "(H · D, dim)", "(T,)", "(x, W)"]


# --- the test itself ----------------------------------------------------------------------------------------------------


def made(chapter="02", anchor="key", name="key"):
    return Entry(anchor, name, (chapter,), (), "")


@pytest.mark.parametrize(
    ("book", "found"),
    [
        ({"02": ("A [**key**](glossary.md#key) is what is offered. Keys again.",)}, []),
        ({"02": ("Keys come first, and then a [**key**](glossary.md#key).",)}, ["02"]),
        ({"01": ("Each has a key.",), "02": ("A [key](glossary.md#key).",)}, ["01"]),
        ({"01": ("Each has a [key](glossary.md#key), of which later. Keys.",), "02": ("A [key](glossary.md#key).",)}, []),
        ({"01": ("Each has a [key](glossary.md#key).",), "02": ("Keys. A [key](glossary.md#key).",)}, ["02"]),
        ({"01": ("# Keys\n\nA monkey, `key`, $key$, [so](key.md).\n\n    key\n\n*Proved in key.*",), "02": ()}, []),
        ({"02": ("A [key](glossary.md#key-head).",)}, ["02"]),
        ({"02": ("A [key head](glossary.md#head) and a [key](glossary.md#key).",)}, ["02"]),
        ({"02": (), "03": ("Each has a key.",)}, []),
    ],
)
def test_an_unexplained_use_is_found(book, found):
    assert [said.split(":")[0] for said in unexplained(made(), book)] == found


def test_dead_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text('# Two Words\n\n<a id="here"></a>\n\n## words\n')
    for target in ("#here", "page.md#here", "#words", "https://example.org/#x", "14_after_mistral.ipynb"):
        assert not dead(target, page), target
    for target in ("#nowhere", "page.md#Two-Words", "#two-words", "other.md", "15_more.ipynb"):
        assert dead(target, page), target


def test_the_order_is_that_of_letters():
    assert alphabetical(["mask", "KL divergence", "key head", "key"]) == ["key", "key head", "KL divergence", "mask"]
