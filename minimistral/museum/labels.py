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
    """All exhibits in one table, and how many tests of this repository are named for each; their names are folded away."""

    def __repr__(self):
        lines = []
        for bug in BUGS.values():
            what = f"{bug.title} ({', '.join(bug.where)}; chapter {bug.chapter:02d})"
            lines.append(f"{bug.number:2d}  {what}. {bug.noticed} Caught by {_counted(bug)}.")
        return "\n".join(lines)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self._html(), "text/plain": repr(self)}

    def _html(self) -> str:
        cell = "style='text-align:left;vertical-align:top;padding:6px 8px;border-top:1px solid #8884;white-space:normal'"
        heads = {"": 4, "exhibit": 30, "chapter": 8, "what one notices": 34, "caught by": 24}
        rows = ["<tr>" + "".join(f"<th width='{wide}%' {cell}>{head}</th>" for head, wide in heads.items()) + "</tr>"]
        for bug in BUGS.values():
            names = "".join(f"<div style='margin:4px 0'>{escape(test.replace('_', ' '))}</div>" for test in _caught(bug))
            cells = (
                f"{bug.number}",
                f"<b>{escape(bug.title)}</b><br><span style='opacity:.75'>{_links(bug)}</span>",
                f"{bug.chapter:02d}",
                escape(bug.noticed),
                f"<details><summary style='cursor:pointer'>{_counted(bug)}</summary>{names}</details>",
            )
            rows.append("<tr style='background:transparent'>" + "".join(f"<td {cell}>{text}</td>" for text in cells) + "</tr>")
        dress = "border-collapse:collapse;width:100%;max-width:72em;font-size:88%;line-height:1.4"
        return f"<table style='{dress}'>{''.join(rows)}</table>"


def wall() -> Wall:
    """The table of all eighteen."""
    return Wall()


def _links(bug: Bug) -> str:
    return ", ".join(f"<a href='{url}' target='_blank'>{escape(name)}</a>" if url else escape(name) for name, url in bug.projects)


def _caught(bug: Bug) -> list[str]:
    """The tests that catch one form of it or another, without their cases."""
    tests = (test for form in bug.plants for test in PROOF[bug.number, form][0])
    return list(dict.fromkeys(test.split("::test_")[1].split("[")[0] for test in tests))


def _counted(bug: Bug) -> str:
    n = len(_caught(bug))
    return f"{n} named test" + "s" * (n > 1)
