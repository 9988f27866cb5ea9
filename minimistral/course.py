"""The map of the course: its chapters, their minutes, and where one may leave with something in hand."""

from dataclasses import dataclass

from minimistral.lab import PACKED, ROOT


@dataclass(frozen=True)
class Chapter:
    """One stop of the course."""

    number: int
    file: str
    title: str
    minutes: int  # reading, running and exercises
    exit: str = ""  # what one can do who leaves after it
    short: bool = False  # on the short way to the 16k speed-up

    @property
    def written(self) -> bool:
        return (NOTEBOOKS / self.file).is_file()


NOTEBOOKS = PACKED if PACKED.is_dir() else ROOT / "notebooks"
CHAPTERS = (
    Chapter(0, "00_start_here.ipynb", "start here", 45, short=True),
    Chapter(1, "01_attention.ipynb", "attention", 80, short=True),
    Chapter(2, "02_rotary_positions.ipynb", "rotary positions", 70),
    Chapter(3, "03_the_cache_and_gqa.ipynb", "the cache and grouped-query attention", 80, short=True),
    Chapter(4, "04_sliding_window.ipynb", "the sliding window", 75, "can read attention code", short=True),
    Chapter(5, "05_rolling_buffer.ipynb", "the rolling buffer", 75),
    Chapter(6, "06_prefill_and_chunking.ipynb", "pre-fill and chunking", 85, "can trust a cache"),
    Chapter(7, "07_the_whole_model.ipynb", "the whole model", 85),
    Chapter(8, "08_tokens_and_prompts.ipynb", "tokens and prompts", 85, "owns a model"),
    Chapter(9, "09_train_a_tiny_mistral.ipynb", "train a tiny Mistral", 80),
    Chapter(10, "10_load_the_7b.ipynb", "load the 7B", 50),
    Chapter(11, "11_the_16k_speed_up.ipynb", "the 16k speed-up", 80, "can judge a speed claim", short=True),
    Chapter(12, "12_the_claims.ipynb", "the claims", 50),
    Chapter(13, "13_the_museum.ipynb", "the museum", 80),
    Chapter(14, "14_after_mistral.ipynb", "after Mistral", 60),
)
#: beside the way, and not in its hours
APPENDICES = (Chapter(12, "12b_evaluation_and_guardrails.ipynb", "evaluation and guardrails", 45),)


def table() -> str:
    """The map as text: a line a chapter."""
    lines = []
    for chapter in CHAPTERS:
        marks = "*" if chapter.short else " "
        end = f"   exit: {chapter.exit}" if chapter.exit else ""
        end += "" if chapter.written else "   (not written yet)"
        lines.append(f"{chapter.number:02d} {marks} {chapter.minutes:3d} min  {chapter.title}{end}")
    hours = sum(chapter.minutes for chapter in CHAPTERS) / 60
    return "\n".join([*lines, f"{hours:.1f} hours in all; * is the short way to the 16k speed-up"])


def draw():
    """The map as a picture: a line with fifteen stops."""
    from minimistral.widgets.picture import BLUE, GREEN, GREY, ORANGE, figure, finish

    made, ax = figure(8.2, 6.6)
    for n, chapter in enumerate(CHAPTERS):
        if n:
            ax.plot([0, 0], [n - 1, n], color=GREY, lw=3, zorder=1)
        ax.scatter(0, n, s=170, color=ORANGE if chapter.short else BLUE, zorder=3)
        ax.text(0.35, n, f"{chapter.number:02d}  {chapter.title}", va="center")
        ax.text(5.3, n, f"{chapter.minutes} min", va="center", ha="right", color="#6b7177", fontsize=9)
        if chapter.exit:
            ax.annotate(
                f"exit: {chapter.exit}", (5.5, n), (5.75, n), va="center", color=GREEN, fontsize=9,
                arrowprops={"arrowstyle": "<-", "color": GREEN},
            )  # fmt: skip
    ax.scatter(0, len(CHAPTERS) + 0.15, s=60, color=ORANGE)
    ax.text(0.35, len(CHAPTERS) + 0.15, "the short way to the 16k speed-up", va="center", fontsize=9)
    ax.set(xlim=(-0.3, 8.6), ylim=(len(CHAPTERS) + 0.6, -0.6))
    ax.axis("off")
    return finish(made, table())
