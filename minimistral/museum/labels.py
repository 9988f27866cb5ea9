"""What hangs beside the exhibits: a label for each, and the wall with all of them."""

from html import escape

from minimistral.museum.bugs import BUGS, Bug, find
from minimistral.museum.proof import PROOF


class Card:
    """An exhibit's label. The last line of a cell shows it; what one notices is folded away, so that one can guess."""

    def __init__(self, bug: Bug):
        self.bug = bug

    def __repr__(self):
        bug = self.bug
        return "\n".join([
            f"{bug.number}. {bug.title} ({', '.join(bug.where)}; idea: chapter {bug.chapter:02d})",
            f"What is wrong: {bug.wrong}",
            f"What one notices: {bug.noticed}",
        ])  # fmt: skip

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self._html(), "text/plain": repr(self)}

    def _html(self) -> str:
        bug = self.bug
        return (
            "<div style='max-width:44em;border:1px solid #8886;border-left:5px solid #e07a1f;border-radius:6px;"
            "padding:8px 16px;margin:4px 0;line-height:1.5'>"
            f"<div style='font-size:115%'><b>{bug.number}</b> · <b>{escape(bug.title)}</b></div>"
            f"<div style='opacity:.75;font-size:92%'>{_links(bug)} · idea: chapter {bug.chapter:02d}</div>"
            f"<p style='margin:6px 0'>{escape(bug.wrong)}</p>"
            "<details><summary style='cursor:pointer'>What one notices</summary>"
            f"<p style='margin:4px 0'>{escape(bug.noticed)}</p></details></div>"
        )


def card(number: int) -> Card:
    """The label of one exhibit."""
    return Card(find(number))


class Wall:
    """All exhibits in one table, with the tests that catch each and one that does not notice."""

    def __repr__(self):
        lines = []
        for bug in BUGS.values():
            lines.append(f"{bug.number:2d}  {bug.title} ({', '.join(bug.where)}; chapter {bug.chapter:02d}). {bug.noticed}")
            for form, (catch, passes) in _proved(bug):
                lines += [f"      {form}caught by {', '.join(map(_bare, catch))}; not by {_bare(passes)}"]
        return "\n".join(lines)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self._html(), "text/plain": repr(self)}

    def _html(self) -> str:
        cell = "style='text-align:left;vertical-align:top;padding:6px 8px;border-top:1px solid #8884;white-space:normal'"
        heads = {"": 3, "exhibit": 19, "chapter": 6, "what one notices": 22, "caught by": 28, "not noticed by": 22}
        rows = ["<tr>" + "".join(f"<th width='{wide}%' {cell}>{head}</th>" for head, wide in heads.items()) + "</tr>"]
        for bug in BUGS.values():
            catch = {test: None for _, (tests, _) in _proved(bug) for test in tests}
            passes = {test: None for _, (_, test) in _proved(bug)}
            cells = (
                f"{bug.number}",
                f"<b>{escape(bug.title)}</b><br><span style='opacity:.75'>{_links(bug)}</span>",
                f"{bug.chapter:02d}",
                escape(bug.noticed),
                "".join(map(_said, catch)),
                "".join(map(_said, passes)),
            )
            rows.append("<tr style='background:transparent'>" + "".join(f"<td {cell}>{text}</td>" for text in cells) + "</tr>")
        dress = "border-collapse:collapse;width:100%;max-width:84em;font-size:88%;line-height:1.4"
        return f"<table style='{dress}'>{''.join(rows)}</table>"


def wall() -> Wall:
    """The table of all eighteen."""
    return Wall()


def _links(bug: Bug) -> str:
    return ", ".join(f"<a href='{url}' target='_blank'>{escape(name)}</a>" if url else escape(name) for name, url in bug.projects)


def _proved(bug: Bug):
    return [(f"{form}: " if form else "", PROOF[bug.number, form]) for form in bug.plants]


def _bare(test: str) -> str:
    return test.split("::")[1].split("[")[0]


def _said(test: str) -> str:
    """A test's name as a sentence; which of its cases, in brackets."""
    file, _, name = test.partition("::")
    name, _, case = name.removeprefix("test_").partition("[")
    case = f" <span style='opacity:.65'>[{escape(case)}</span>" if case else ""
    where = f"<span style='opacity:.65'>{file.removeprefix('test_').removesuffix('.py')}:</span>"
    return f"<div style='margin-bottom:4px'>{where} {escape(name.replace('_', ' '))}{case}</div>"
