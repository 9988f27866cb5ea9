"""Chapter 12: an interval for the difference of two scores, charts that mislead, and what two scores say of single answers."""

import math
from statistics import NormalDist

import torch

from minimistral.evaluation import difference
from minimistral.exercises.frame import Exercise

# --- the interval of a difference -----------------------------------------------------------------------------------------

margin = Exercise(
    "margin",
    cases=lambda: [
        (50.0, 40.0, 100), (0.0, 12.5, 8), (81.3, 80.7, 10_042), (28.8, 29.0, 3_610), (30.5, 18.9, 164), (52.2, 34.3, 1_319),
        (100.0, 100.0, 7),
    ],
    hints=[
        "Make shares of the percentages first: p / 100. The squared standard error of one score is p (1 - p) / n.",
        "Add the two *squared* standard errors, and take the root of the sum. That is the standard error of the difference.",
        "The interval is p - q, minus and plus 1.96 of those; times 100, to have points again.",
    ],
)  # fmt: skip


@margin.reference
def _(p, q, n):
    p, q = p / 100, q / 100
    half = 1.96 * math.sqrt(p * (1 - p) / n + q * (1 - q) / n)
    return 100 * (p - q - half), 100 * (p - q + half)


@margin.right
def _(p, q, n):
    half = 1.96 * ((p * (100 - p) + q * (100 - q)) / n) ** 0.5  # the same, in points all the way
    return [p - q - half, p - q + half]


@margin.right
def _(p, q, n):
    errors = [math.sqrt(x / 100 * (1 - x / 100) / n) for x in (p, q)]
    half = 100 * 1.96 * math.hypot(*errors)
    return p - q - half, p - q + half


@margin.right
def _(p, q, n):
    shares = torch.tensor([p, q], dtype=torch.float64) / 100
    error = (shares * (1 - shares) / n).sum().sqrt() * 100
    return p - q - 1.96 * error, p - q + 1.96 * error


@margin.right
def _(p, q, n):
    z = NormalDist().inv_cdf(0.975)  # 1.95996
    half = z * math.sqrt(p * (100 - p) / n + q * (100 - q) / n)
    return p - q - half, p - q + half


def around(p, q, half):
    """The interval of p - q, `half` to either side."""
    return p - q - half, p - q + half


@margin.mistake("The two half-widths are added. Two errors seldom go wrong the same way at once: add their *squares*, then the root.")
def _(p, q, n):
    return around(p, q, 1.96 * (math.sqrt(p * (100 - p) / n) + math.sqrt(q * (100 - q) / n)))


@margin.mistake("p (1 - p) is made for shares from 0 to 1; p comes in percent. Divide by 100 first.")
def _(p, q, n):
    half = 1.96 * math.sqrt(p * (1 - p) / n + q * (1 - q) / n)
    return p - q - half, p - q + half


@margin.mistake("p (1 - p) is made for shares from 0 to 1, and p comes in percent: the root of something negative. Divide by 100 first.")
def _(p, q, n):
    half = 1.96 * (p * (1 - p) / n + q * (1 - q) / n) ** 0.5
    return p - q - half, p - q + half


@margin.mistake("These are shares. Points are asked for, as in the table: times 100.")
def _(p, q, n):
    p, q = p / 100, q / 100
    return around(p, q, 1.96 * math.sqrt((p * (1 - p) + q * (1 - q)) / n))


@margin.mistake("One half is in shares and the other in points: make points of the standard error too.")
def _(p, q, n):
    return around(p, q, 1.96 * math.sqrt((p / 100 * (1 - p / 100) + q / 100 * (1 - q / 100)) / n))


@margin.mistake("That is one standard error to each side, which holds some 68 %. For 95 % it is 1.96 of them.")
def _(p, q, n):
    return around(p, q, math.sqrt((p * (100 - p) + q * (100 - q)) / n))


@margin.mistake("The root is missing: p (1 - p) / n is the *square* of the standard error.")
def _(p, q, n):
    return around(p, q, 100 * 1.96 * (p / 100 * (1 - p / 100) + q / 100 * (1 - q / 100)) / n)


@margin.mistake("The root is missing: the sum is the *square* of the standard error.")
def _(p, q, n):
    return around(p, q, 1.96 * (p * (100 - p) + q * (100 - q)) / n)


@margin.mistake("n is missing: that is how far single answers scatter. Divide by n under the root.")
def _(p, q, n):
    return around(p, q, 1.96 * math.sqrt(p * (100 - p) + q * (100 - q)))


@margin.mistake("Only the second term is divided by n. Brackets around the sum, or / n in both.")
def _(p, q, n):
    return around(p, q, 1.96 * math.sqrt(p * (100 - p) + q * (100 - q) / n))


@margin.mistake("The scores are subtracted, but their squared errors *add* up: each can be off, either way.")
def _(p, q, n):
    return around(p, q, 1.96 * math.sqrt(abs(p * (100 - p) - q * (100 - q)) / n))


@margin.mistake("The scores are subtracted, but their squared errors *add* up. (Where the second is larger, this is the root of something negative.)")
def _(p, q, n):
    return around(p, q, 1.96 * math.sqrt((p * (100 - p) - q * (100 - q)) / n))


@margin.mistake("The scores are subtracted, but their errors are not: add the *squares* of the two, then the root.")
def _(p, q, n):
    return around(p, q, 1.96 * (math.sqrt(p * (100 - p) / n) - math.sqrt(q * (100 - q) / n)))


@margin.mistake("The larger of the two errors alone. The smaller one counts too: add the squares.")
def _(p, q, n):
    return around(p, q, 1.96 * math.sqrt(max(p * (100 - p), q * (100 - q)) / n))


@margin.mistake("One error for both, from the mean of the two scores. Here each score has its own p (1 - p) / n.")
def _(p, q, n):
    mean = (p + q) / 2
    return around(p, q, 1.96 * math.sqrt(2 * mean * (100 - mean) / n))


@margin.mistake("That is the interval of the first score. Asked for is the interval of the lead, p - q.")
def _(p, q, n):
    return around(p, 0, 1.96 * math.sqrt(p * (100 - p) / n))


@margin.mistake("These are the intervals of the two scores. Asked for is one interval, of the lead p - q.")
def _(p, q, n):
    return tuple(around(x, 0, 1.96 * math.sqrt(x * (100 - x) / n)) for x in (p, q))


@margin.mistake("1.96 to *each* side: the interval is 3.92 standard errors long, not 1.96.")
def _(p, q, n):
    return around(p, q, 0.98 * math.sqrt((p * (100 - p) + q * (100 - q)) / n))


@margin.mistake("1.645 to each side hold 90 %. For 95 % it is 1.96.")
def _(p, q, n):
    return around(p, q, 1.645 * math.sqrt((p * (100 - p) + q * (100 - q)) / n))


@margin.mistake("2.576 to each side hold 99 %. For 95 % it is 1.96.")
def _(p, q, n):
    return around(p, q, 2.576 * math.sqrt((p * (100 - p) + q * (100 - q)) / n))


@margin.mistake("The lower end is cut off at 0. A lead may be negative: then the other model may be the better one.")
def _(p, q, n):
    low, high = around(p, q, 1.96 * math.sqrt((p * (100 - p) + q * (100 - q)) / n))
    return max(0, low), high


@margin.mistake("That is Newcombe's interval, as the library's `difference` has it. Here the simple one is asked for.")
def _(p, q, n):
    return tuple(100 * end for end in difference(round(p / 100 * n), n, round(q / 100 * n), n))


@margin.mistake("The lead is in it as well. Return the two ends alone: (low, high).")
def _(p, q, n):
    return p - q, *around(p, q, 1.96 * math.sqrt((p * (100 - p) + q * (100 - q)) / n))


@margin.mistake("Only the first score's error is in it. The second was measured on n questions too.")
def _(p, q, n):
    return around(p, q, 1.96 * math.sqrt(p * (100 - p) / n))


@margin.mistake("Only the second score's error is in it. The first was measured on n questions too.")
def _(p, q, n):
    return around(p, q, 1.96 * math.sqrt(q * (100 - q) / n))


@margin.mistake("That is q - p. The first model's lead is asked for: p - q.")
def _(p, q, n):
    return around(q, p, 1.96 * math.sqrt((p * (100 - p) + q * (100 - q)) / n))


@margin.mistake("n belongs under the root: four times as many questions halve the error, they do not quarter it.")
def _(p, q, n):
    return around(p, q, 1.96 * math.sqrt(p * (100 - p) + q * (100 - q)) / n)


@margin.mistake("The 2 n questions are put together. Each score has its own n, and each n its own error.")
def _(p, q, n):
    return around(p, q, 1.96 * math.sqrt((p * (100 - p) + q * (100 - q)) / (2 * n)))


@margin.mistake("The difference is treated as if it were a score of its own. Its error comes from the two scores' errors.")
def _(p, q, n):
    d = abs(p - q)
    return around(p, q, 1.96 * math.sqrt(d * (100 - d) / n))


@margin.mistake("The two ends are swapped: the lower one comes first.")
def _(p, q, n):
    return around(p, q, 1.96 * math.sqrt((p * (100 - p) + q * (100 - q)) / n))[::-1]


@margin.mistake("This is the difference and its half-width. Asked for are the two ends.")
def _(p, q, n):
    return p - q, 1.96 * math.sqrt((p * (100 - p) + q * (100 - q)) / n)


@margin.mistake("Only the half-width. Asked for are the two ends, p - q minus it and plus it.")
def _(p, q, n):
    return 1.96 * math.sqrt((p * (100 - p) + q * (100 - q)) / n)


@margin.mistake("By n - 1? Here the squared error of a share is p (1 - p) / n.")
def _(p, q, n):
    return around(p, q, 1.96 * math.sqrt((p * (100 - p) + q * (100 - q)) / (n - 1)))


@margin.mistake("2 is near, but 1.96 is asked for.")
def _(p, q, n):
    return around(p, q, 2 * math.sqrt((p * (100 - p) + q * (100 - q)) / n))


@margin.mistake("The lead has lost its sign: if q is larger, p - q is negative, and stays so.")
def _(p, q, n):
    return around(abs(p - q), 0, 1.96 * math.sqrt((p * (100 - p) + q * (100 - q)) / n))


@margin.mistake("Right, but rounded. Leave rounding to whoever prints it.")
def _(p, q, n):
    return tuple(round(x, 1) for x in around(p, q, 1.96 * math.sqrt((p * (100 - p) + q * (100 - q)) / n)))


@margin.mistake("Right, but rounded. Leave rounding to whoever prints it.")
def _(p, q, n):
    return tuple(round(x, 2) for x in around(p, q, 1.96 * math.sqrt((p * (100 - p) + q * (100 - q)) / n)))


@margin.mistake("Right, but rounded. Leave rounding to whoever prints it.")
def _(p, q, n):
    return tuple(round(x, 0) for x in around(p, q, 1.96 * math.sqrt((p * (100 - p) + q * (100 - q)) / n)))


# --- on how many questions two models part --------------------------------------------------------------------------------

parted = Exercise(
    "parted",
    cases=lambda: [
        (0, 1, 1), (1, 2, 3), (2, 2, 4), (3, 1, 5), (5, 4, 6), (0, 0, 7), (8, 8, 8), (4, 5, 9), (6, 6, 11), (13, 2, 14), (2, 3, 20),
        (8_164, 8_104, 10_042), (1_040, 1_047, 3_610),
    ],
    hints=[
        "Try it with n = 3, a = 1, b = 2: write three columns of right and wrong for each model, in all ways you find.",
        "Everything follows from one number: how many questions *both* got right. What is it at most? And at least, if a + b is more than n?",
        "With `both` of them, the first alone is right on a - both, the second alone on b - both.",
    ],
)  # fmt: skip


@parted.reference
def _(a, b, n):
    return abs(a - b), min(a + b, 2 * n - a - b)


@parted.right
def _(a, b, n):
    most_both, least_both = min(a, b), max(0, a + b - n)
    return a + b - 2 * most_both, a + b - 2 * least_both


@parted.right
def _(a, b, n):
    return max(a, b) - min(a, b), min(a, n - b) + min(b, n - a)


@parted.right
def _(a, b, n):
    return abs(a - b), n - abs(n - a - b)


@parted.right
def _(a, b, n):
    ways = [(a - both) + (b - both) for both in range(min(a, b) + 1) if a + b - both <= n]
    return [min(ways), max(ways)]


@parted.right
def _(a, b, n):
    first = [i < a for i in range(n)]
    alike, unlike = [i < b for i in range(n)], [i >= n - b for i in range(n)]  # the same first questions; the last ones
    return tuple(sum(x != y for x, y in zip(first, other, strict=True)) for other in (alike, unlike))


@parted.mistake("There are only n questions. If a + b is more than n, the two cannot be right on different ones throughout.")
def _(a, b, n):
    return abs(a - b), a + b


@parted.mistake("Where a + b is more than n, some questions have both right, and on those the two do not part: fewer than n are left.")
def _(a, b, n):
    return abs(a - b), min(a + b, n)


@parted.mistake("They cannot always part on all n questions: with few right, both are wrong on some.")
def _(a, b, n):
    return abs(a - b), n


@parted.mistake("With different scores they must part somewhere: on |a - b| questions at least.")
def _(a, b, n):
    return 0, min(a + b, 2 * n - a - b)


@parted.mistake("The fewest came out negative where b is larger than a. A count is not.")
def _(a, b, n):
    return a - b, min(a + b, 2 * n - a - b)


@parted.mistake("That counts where the first is right and the second wrong. Where it is the other way round, they part too.")
def _(a, b, n):
    return max(0, a - b), min(a, n - b)


@parted.mistake("Where b is larger, the fewest is not 0: the second alone is right on b - a of them, at least.")
def _(a, b, n):
    return max(0, a - b), min(a + b, 2 * n - a - b)


@parted.mistake("The most counts only the questions that the first alone got right. Those of the second come on top.")
def _(a, b, n):
    return abs(a - b), min(a, n - b)


@parted.mistake("The most counts the questions that one of the two alone got right. Those of the other come on top.")
def _(a, b, n):
    return abs(a - b), max(min(a, n - b), min(b, n - a))


@parted.mistake("The same score does not mean the same questions: with equal scores they can still part.")
def _(a, b, n):
    return (0, 0) if a == b else (abs(a - b), min(a + b, 2 * n - a - b))


@parted.mistake("With equal scores they need not part at all: the fewest is 0.")
def _(a, b, n):
    return max(1, abs(a - b)), min(a + b, 2 * n - a - b)


@parted.mistake("That is how many they part on if right answers fall by chance. Asked for is what is *possible*, at most.")
def _(a, b, n):
    return abs(a - b), (a * (n - b) + b * (n - a)) / n


@parted.mistake("On the a + b - n questions that both must have right they do not part, but n is not always full either: with few right, both are wrong on some.")
def _(a, b, n):
    return abs(a - b), n - max(0, a + b - n)


@parted.mistake("The most is more than the larger score: where the other one alone is right, they part too.")
def _(a, b, n):
    return abs(a - b), max(a, b)


@parted.mistake("These are on how many at least one of the two is right. Where both are, they do not part.")
def _(a, b, n):
    return max(a, b), min(a + b, n)


@parted.mistake("n minus the fewest is not the most. Put the right answers of one where the other is wrong, as far as there is room.")
def _(a, b, n):
    return abs(a - b), n - abs(a - b)


@parted.mistake("These are all the numbers between. Return two: (fewest, most).")
def _(a, b, n):
    return list(range(abs(a - b), min(a + b, 2 * n - a - b) + 1))


@parted.mistake("That is how many both got right. On those the two do not part.")
def _(a, b, n):
    return max(0, a + b - n), min(a, b)


@parted.mistake("The two results are swapped: the fewest first.")
def _(a, b, n):
    return min(a + b, 2 * n - a - b), abs(a - b)


@parted.mistake("This counts the wrong answers, n - a and n - b. With few right answers there are not as many questions to part on.")
def _(a, b, n):
    return abs(a - b), 2 * n - a - b


@parted.mistake("These are shares of n. Asked for are questions.")
def _(a, b, n):
    return abs(a - b) / n, min(a + b, 2 * n - a - b) / n


@parted.mistake("These are percent of n. Asked for are questions.")
def _(a, b, n):
    return 100 * abs(a - b) / n, 100 * min(a + b, 2 * n - a - b) / n


@parted.mistake("Only the fewest. Return both: (fewest, most).")
def _(a, b, n):
    return abs(a - b)


# --- charts that mislead --------------------------------------------------------------------------------------------------

#: letter: (what the chart is of, the larger value, the smaller one, how it is drawn, where its axis begins)
CHARTS = {
    "A": ("HellaSwag", 81.3, 80.7, "bars", 80.0),
    "B": ("billions of parameters", 38.0, 7.0, "circles", 0.0),
    "C": ("GSM8K", 52.2, 34.3, "bars", 0.0),
    "D": ("MATH", 13.1, 6.0, "log bars", 1.0),
}
WRONG = {
    "A": "Chart A: its axis begins at 80, so the bars are 81.3 - 80 and 80.7 - 80 high.",
    "B": "Chart B: the *diameters* are 38 and 7. The ink is the area, and twice the diameter is four times the area.",
    "C": "Chart C: its bars begin at 0, so the ink is as the numbers: 52.2 over 34.3.",
    "D": "Chart D: each step of its axis is ten times the one before, from 1. A bar's height is the logarithm of its number.",
}
FOUR = "Write a list of four numbers, for A, B, C and D in this order."
NOT_INK = "These are the ratios of the numbers. Asked for is the ink: look where each axis begins, and what is drawn."
DIGITS = "Nearly: two digits after the point are asked for."
MORE = "That is how many times *more*. Asked for is how many times *as much*: one more, and 1 where the marks are equal."
PERCENT = "That is percent. Asked for is how many times as much: divide by 100."
BACKWARDS = "The order is D to A. " + FOUR
UPSIDE_DOWN = "Upside down: the larger mark over the smaller one, so all four are above 1."


def numbers() -> list[float]:
    """How many times the smaller number the larger is, by chart."""
    return [more / less for _, more, less, *_ in CHARTS.values()]


class FourCharts(Exercise):
    """why() names the first chart that is misread."""

    def _likely(self):
        right, yours = self.answer(), plain(self._yours)
        if len(yours) != 4:
            return FOUR
        near = [math.isclose(x, y, rel_tol=self.tolerance, abs_tol=self.tolerance) for x, y in zip(yours, right, strict=True)]
        upside_down = [math.isclose(x * y, 1, rel_tol=0.03) for x, y in zip(yours, right, strict=True)]
        for other, sentence in (
            (numbers(), NOT_INK), ([x - 1 for x in right], MORE), ([100 * x for x in right], PERCENT), (right[::-1], BACKWARDS),
        ):  # fmt: skip
            if all(math.isclose(x, y, rel_tol=0.02) for x, y in zip(yours, other, strict=True)):
                return sentence
        if any(upside_down) and all(one or other for one, other in zip(near, upside_down, strict=True)):
            return UPSIDE_DOWN
        if all(0 < x <= 1 for x in yours):
            return UPSIDE_DOWN
        if all(math.isclose(x, y, rel_tol=0.04) for x, y in zip(yours, right, strict=True)):
            return DIGITS
        return next(sentence for sentence, fine in zip(WRONG.values(), near, strict=True) if not fine)


def plain(yours) -> list[float]:
    """Numbers of any kind, NumPy's, PyTorch's or fractions, as floats; an empty list if it is not a list of numbers."""
    yours = yours.tolist() if hasattr(yours, "tolist") else yours
    try:
        return [] if any(isinstance(x, str | bool) for x in yours) or isinstance(yours, str | dict) else [float(x) for x in yours]
    except Exception:
        return []


ink = FourCharts(
    "ink",
    hints=[
        "A bar's ink goes by its height, from where the axis begins to where the bar ends.",
        "A circle's ink goes by the square of its diameter.",
        "On an axis with steps of ten, from 1, the height of x is math.log10(x).",
    ],
    tolerance=0.01,
)


@ink.reference
def _():
    return [(81.3 - 80) / (80.7 - 80), (38 / 7) ** 2, 52.2 / 34.3, math.log10(13.1) / math.log10(6.0)]


@ink.right
def _():
    return [1.86, 29.5, 1.52, 1.44]


@ink.right
def _():
    return (1.857, 29.469, 1.5219, 1.4358)


@ink.right
def _():
    return [13 / 7, 1444 / 49, 522 / 343, math.log(13.1, 6)]


@ink.mistake(NOT_INK)
def _():
    return [81.3 / 80.7, 38 / 7, 52.2 / 34.3, 13.1 / 6.0]


@ink.mistake(DIGITS)
def _():
    return [1.9, 29.5, 1.5, 1.4]


@ink.mistake(UPSIDE_DOWN)
def _():
    return [0.54, 0.034, 0.66, 0.70]


@ink.mistake(UPSIDE_DOWN)
def _():
    return [1.86, 0.034, 1.52, 1.44]  # as the circles stand: the second over the first


@ink.mistake(MORE)
def _():
    return [0.86, 28.47, 0.52, 0.44]


@ink.mistake(PERCENT)
def _():
    return [185.7, 2946.9, 152.2, 143.6]


@ink.mistake(BACKWARDS)
def _():
    return [1.44, 1.52, 29.47, 1.86]


@ink.mistake(DIGITS)
def _():
    return [1.86, 29, 1.52, 1.44]


@ink.mistake(WRONG["A"])
def _():
    return [1.01, 29.5, 1.52, 1.44]


@ink.mistake(WRONG["B"])
def _():
    return [1.86, 5.43, 1.52, 1.44]


@ink.mistake(WRONG["C"])
def _():
    return [1.86, 29.5, 1.0, 1.44]


@ink.mistake(WRONG["D"])
def _():
    return [1.86, 29.5, 1.52, 2.18]


@ink.mistake(FOUR)
def _():
    return [1.86, 29.5, 1.52]


@ink.mistake(WRONG["D"])
def _():
    return [1.86, 29.47, 1.52, 0.34]  # log10(13.1 / 6)


@ink.mistake(FOUR)
def _():
    return {"A": 1.86, "B": 29.47, "C": 1.52, "D": 1.44}


@ink.mistake(FOUR)
def _():
    return "1.86, 29.5, 1.52, 1.44"
