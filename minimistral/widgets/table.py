"""Small matrices with their numbers, so that they can be checked by hand."""

import torch

from minimistral.widgets.picture import FUTURE, Picture, figure, finish


def heat(matrix, rows: list[str], columns: list[str], title: str = "", digits: int = 2) -> Picture:
    """A matrix as coloured cells with the numbers in them; -inf stays empty, with the future's grey behind it."""
    matrix = torch.as_tensor(matrix, dtype=torch.float32)
    finite = matrix.masked_fill(matrix.isinf(), float("nan"))
    height, width = matrix.shape
    made, ax = figure(1.6 + 0.75 * width, 0.9 + 0.46 * height)
    ax.set_facecolor(FUTURE)
    numbers = finite.nan_to_num(0.0)
    ax.imshow(finite, cmap="Oranges", vmin=min(numbers.min(), 0), vmax=numbers.max() * 1.5 + 1e-6, aspect="auto")
    cells = [["-inf" if x == float("-inf") else f"{x:.{digits}f}" for x in row] for row in matrix.tolist()]
    for i in range(height):
        for j in range(width):
            ax.text(j, i, cells[i][j].replace("-inf", "−∞"), ha="center", va="center", fontsize=9)
    ax.set_xticks(range(width), columns)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_yticks(range(height), rows)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if title:
        ax.set_xlabel(title)
    pad = max(map(len, rows))
    wide = max(max(map(len, columns)), *(len(x) for row in cells for x in row))
    lines = [" " * pad + "  " + "  ".join(f"{c:>{wide}}" for c in columns)]
    lines += [f"{name:>{pad}}  " + "  ".join(f"{x:>{wide}}" for x in row) for name, row in zip(rows, cells, strict=True)]
    return finish(made, "\n".join([title, *lines] if title else lines))
