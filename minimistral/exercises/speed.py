"""Chapter 11: two softmaxes merged, the window as two triangles, pairs counted, a ceiling, and lines that cannot stand."""

import math
from contextlib import contextmanager

import torch

from minimistral import masks, window
from minimistral.exercises.frame import Exercise, difference

# --- merging two parts ----------------------------------------------------------------------------------------------------


def merge_draws():
    """(a, a_lse, b, b_lse): a query with two numbers; several; scores in the hundreds; parts that are empty."""
    g = torch.Generator().manual_seed(11)

    def part(n, T, D, size=2.0):
        return torch.randn(n, T, D, generator=g), size * torch.randn(n, T, generator=g)

    by_hand = torch.tensor([[[5.0, 1.0]]]), torch.tensor([[math.log(4)]]), torch.tensor([[[3.0, 2.0]]]), torch.tensor([[math.log(6)]])
    empty = [*part(2, 4, 3), *part(2, 4, 3)]
    for which, rows in ((0, [0, 2]), (2, [1])):  # never both of one row
        empty[which][:, rows] = 0.0
        empty[which + 1][:, rows] = float("-inf")
    far = [*part(1, 5, 2, 300.0), *part(1, 5, 2, 300.0)]
    return [by_hand, (*part(1, 3, 2), *part(1, 3, 2)), (*part(3, 4, 2), *part(3, 4, 2)), tuple(far), tuple(empty)]


merge = Exercise(
    "merge",
    cases=merge_draws,
    hints=[
        "The sum of a part's powers is exp(lse). A part's share is its sum over both sums, and the two shares are together 1.",
        "exp(300) is infinite in float32. Take the larger of the two log-sum-exps off both first: the shares do not change. "
        "Or use torch.sigmoid: 1 / (1 + exp(a - b)) is sigmoid(b - a).",
        "A share is one number a query, (n, T); a result has D numbers a query, (n, T, D): share.unsqueeze(-1). And "
        "torch.logaddexp(x, y) is log(exp(x) + exp(y)) without the overflow.",
    ],
)


@merge.reference
def _(a, a_lse, b, b_lse):
    share = torch.sigmoid(b_lse - a_lse).unsqueeze(-1)  # e^b / (e^a + e^b)
    return (1 - share) * a + share * b, torch.logaddexp(a_lse, b_lse)


@merge.right
def _(a, a_lse, b, b_lse):
    most = torch.maximum(a_lse, b_lse)
    a_sum, b_sum = (a_lse - most).exp(), (b_lse - most).exp()
    out = (a * a_sum[..., None] + b * b_sum[..., None]) / (a_sum + b_sum)[..., None]
    return out, most + (a_sum + b_sum).log()


@merge.right
def _(a, a_lse, b, b_lse):
    both = torch.stack((a_lse, b_lse))
    shares = both.softmax(0)[..., None]
    return (shares * torch.stack((a, b))).sum(0), both.logsumexp(0)


@merge.right
def _(a, a_lse, b, b_lse):
    lse = torch.logaddexp(a_lse, b_lse)
    return a * (a_lse - lse).exp()[:, :, None] + b * (b_lse - lse).exp()[:, :, None], lse


@merge.right
def _(a, a_lse, b, b_lse):
    out, lse = torch.empty_like(a), torch.empty_like(a_lse)
    for n in range(a.shape[0]):
        for t in range(a.shape[1]):
            x, y = a_lse[n, t].item(), b_lse[n, t].item()
            most = max(x, y)
            x_sum, y_sum = math.exp(x - most), math.exp(y - most)
            lse[n, t] = most + math.log(x_sum + y_sum)
            out[n, t] = (x_sum * a[n, t] + y_sum * b[n, t]) / (x_sum + y_sum)
    return [out, lse]


@merge.mistake("The two parts are averaged. A part with the larger sum of powers must count for more.")
def _(a, a_lse, b, b_lse):
    return (a + b) / 2, torch.logaddexp(a_lse, b_lse)


@merge.mistake("The shares are swapped: the part with the larger log-sum-exp must count for more.")
def _(a, a_lse, b, b_lse):
    share = torch.sigmoid(a_lse - b_lse)[..., None]
    return (1 - share) * a + share * b, torch.logaddexp(a_lse, b_lse)


@merge.mistake("The shares are made from the log-sum-exps themselves. They are logarithms: the sums are exp of them.")
def _(a, a_lse, b, b_lse):
    share = (b_lse / (a_lse + b_lse))[..., None]
    return (1 - share) * a + share * b, torch.logaddexp(a_lse, b_lse)


@merge.mistake("exp of a score in the hundreds is infinite, and infinite over infinite is NaN. Take the larger one off both first.")
def _(a, a_lse, b, b_lse):
    a_sum, b_sum = a_lse.exp()[..., None], b_lse.exp()[..., None]
    return (a * a_sum + b * b_sum) / (a_sum + b_sum), (a_sum + b_sum).log()[..., 0]


@merge.mistake("exp(b - a) is infinite where b is far above a, or a is -inf. Take the larger of the two off both, whichever it is.")
def _(a, a_lse, b, b_lse):
    times = (b_lse - a_lse).exp()[..., None]
    return (a + times * b) / (1 + times), a_lse + torch.log1p(times[..., 0])


@merge.mistake("exp of a score in the hundreds is infinite: the result is right, its log-sum-exp is not. torch.logaddexp is safe.")
def _(a, a_lse, b, b_lse):
    share = torch.sigmoid(b_lse - a_lse)[..., None]
    return (1 - share) * a + share * b, (a_lse.exp() + b_lse.exp()).log()


@merge.mistake("The new log-sum-exp is the log of the *sum* of both sums. Adding the logarithms multiplies the sums.")
def _(a, a_lse, b, b_lse):
    share = torch.sigmoid(b_lse - a_lse)[..., None]
    return (1 - share) * a + share * b, a_lse + b_lse


@merge.mistake("The new log-sum-exp is only the larger of the two. Both sums go into it: log(exp(a) + exp(b)).")
def _(a, a_lse, b, b_lse):
    share = torch.sigmoid(b_lse - a_lse)[..., None]
    return (1 - share) * a + share * b, torch.maximum(a_lse, b_lse)


@merge.mistake("The result is right, and the log-sum-exp is still that of one part. The next merge would weigh it wrongly.")
def _(a, a_lse, b, b_lse):
    share = torch.sigmoid(b_lse - a_lse)[..., None]
    return (1 - share) * a + share * b, a_lse


@merge.mistake("The second result is the sum of the powers. Its logarithm is asked for.")
def _(a, a_lse, b, b_lse):
    share = torch.sigmoid(b_lse - a_lse)[..., None]
    return (1 - share) * a + share * b, torch.logaddexp(a_lse, b_lse).exp()


@merge.mistake("Each part is weighted by its sum, and the whole is not divided by both sums: the shares must be together 1.")
def _(a, a_lse, b, b_lse):
    most = torch.maximum(a_lse, b_lse)
    out = a * (a_lse - most).exp()[..., None] + b * (b_lse - most).exp()[..., None]
    return out, torch.logaddexp(a_lse, b_lse)


@merge.mistake("The parts are added. Each is already a weighted mean: the merged one lies between the two.")
def _(a, a_lse, b, b_lse):
    return a + b, torch.logaddexp(a_lse, b_lse)


@merge.mistake("A share (n, T) does not fit a result (n, T, D): the share wants a last dimension of 1, share.unsqueeze(-1).")
def _(a, a_lse, b, b_lse):
    share = torch.sigmoid(b_lse - a_lse)
    return (1 - share) * a + share * b, torch.logaddexp(a_lse, b_lse)


@merge.mistake("The two are asked for in this order: the merged result, then its log-sum-exp.")
def _(a, a_lse, b, b_lse):
    share = torch.sigmoid(b_lse - a_lse)[..., None]
    return torch.logaddexp(a_lse, b_lse), (1 - share) * a + share * b


@merge.mistake("The part with the larger sum takes all. The other one counts too, in the share that its sum has of both.")
def _(a, a_lse, b, b_lse):
    return torch.where((a_lse > b_lse)[..., None], a, b), torch.logaddexp(a_lse, b_lse)


@merge.mistake("The part with the larger sum takes all. The other one counts too, in the share that its sum has of both.")
def _(a, a_lse, b, b_lse):
    return torch.where((a_lse > b_lse)[..., None], a, b), torch.maximum(a_lse, b_lse)


@merge.mistake("Take the larger one off for each query by itself. Less one number for all queries, both powers of some are 0: 0 over 0.")
def _(a, a_lse, b, b_lse):
    most = torch.maximum(a_lse, b_lse).max()
    a_sum, b_sum = (a_lse - most).exp()[..., None], (b_lse - most).exp()[..., None]
    return (a * a_sum + b * b_sum) / (a_sum + b_sum), most + (a_sum + b_sum).log()[..., 0]


@merge.mistake("What was taken off both before exp must be added to the logarithm again.")
def _(a, a_lse, b, b_lse):
    most = torch.maximum(a_lse, b_lse)
    share = torch.sigmoid(b_lse - a_lse)[..., None]
    return (1 - share) * a + share * b, ((a_lse - most).exp() + (b_lse - most).exp()).log()


@merge.mistake("exp(a - b) is infinite where a is far above b, or b is -inf. Take the larger of the two off both, whichever it is.")
def _(a, a_lse, b, b_lse):
    times = (a_lse - b_lse).exp()
    share = (1 / (1 + times))[..., None]
    return (1 - share) * a + share * b, b_lse + torch.log(1 + times)


@merge.mistake("Where a part is empty, -inf plus infinite is NaN: what is added to a log-sum-exp must not be infinite.")
def _(a, a_lse, b, b_lse):
    share = torch.sigmoid(b_lse - a_lse)[..., None]
    return (1 - share) * a + share * b, a_lse + torch.nn.functional.softplus(b_lse - a_lse)


@merge.mistake("A NaN made 0 is still wrong. It comes from infinite over infinite, or 0 over 0: take the larger one off both first.")
def _(a, a_lse, b, b_lse):
    a_sum, b_sum = a_lse.exp()[..., None], b_lse.exp()[..., None]
    return torch.nan_to_num((a * a_sum + b * b_sum) / (a_sum + b_sum)), torch.logaddexp(a_lse, b_lse)


@merge.mistake("A NaN made 0 is still wrong. It comes from infinite over infinite, or 0 over 0: take the larger one off both first.")
def _(a, a_lse, b, b_lse):
    a_sum, b_sum = a_lse.exp()[..., None], b_lse.exp()[..., None]
    return torch.nan_to_num((a * a_sum + b * b_sum) / (a_sum + b_sum)), (a_sum + b_sum).log()[..., 0]


@merge.mistake("Where both are far below 0, exp of each is 0, and 0 over 0 is NaN. Take the larger one off both, below 0 too.")
def _(a, a_lse, b, b_lse):
    most = torch.maximum(a_lse, b_lse).clamp(min=0)
    a_sum, b_sum = (a_lse - most).exp()[..., None], (b_lse - most).exp()[..., None]
    return (a * a_sum + b * b_sum) / (a_sum + b_sum), most + (a_sum + b_sum).log()[..., 0]


@merge.mistake("The shares of the two parts of one query are together 1. Here the softmax goes over the queries, not over the two parts.")
def _(a, a_lse, b, b_lse):
    shares = torch.stack((a_lse, b_lse)).softmax(-1)[..., None]
    return shares[0] * a + shares[1] * b, torch.logaddexp(a_lse, b_lse)


@merge.mistake("Two things are asked for: the merged result, and its log-sum-exp.")
def _(a, a_lse, b, b_lse):
    share = torch.sigmoid(b_lse - a_lse)[..., None]
    return (1 - share) * a + share * b


# --- counting pairs -------------------------------------------------------------------------------------------------------


FLOAT = "Almost: a float keeps some 16 digits, and the last ones are lost. Divide whole numbers with //."
LOOP = "Right as far as it goes, but N goes up to 10¹²: no loop and no list of N numbers. The sum falls into two parts that need none."
INT64 = "The whole numbers of NumPy and PyTorch end at 9.2 · 10¹⁸, and then begin again below 0. Python's own have no end."


class Counting(Exercise):
    """Names what becomes of a right formula at numbers so large."""

    def _likely(self):
        if self._failed and not self._advice:
            (case, outcome) = self._failed[0]
            if case[0] > 10_000 and outcome.trouble:
                return LOOP
            if case[0] > 10**9 and hasattr(outcome.value, "dtype"):
                return INT64
            if not outcome.trouble and not difference(self.answer(*case), outcome.value, 1e-9):
                return FLOAT
        return super()._likely()


count_pairs = Counting(
    "count_pairs",
    cases=lambda: [
        (1, 1), (5, 2), (2, 5), (3, 3), (4, 3), (6, 1), (7, 7), (10, 4), (9, 100), (64, 16), (16_384, 4_096), (16_384, 20_000),
        (131_072, 4_096), (10**12 + 7, 999_983), (999_999_999_989, 10**13),
    ],
    tolerance=0,
    hints=[
        "Until query W - 1, each query sees one key more than the one before: 1 + 2 + ... + W. How much is that?",
        "1 + 2 + ... + W = W (W + 1) / 2. The queries after that see W keys each. How many are those?",
        "Where the window is longer than the text, there are only N queries, and it never bites: take the smaller of the two for W. "
        "And divide by // 2: with / the result is a float, which keeps some 16 digits.",
    ],
)  # fmt: skip


@count_pairs.reference
def _(N, window):
    W = min(N, window)
    return W * (W + 1) // 2 + (N - W) * W


@count_pairs.right
def _(N, window):
    out = max(0, N - window)  # a causal triangle, less the smaller one that has fallen out
    return (N * (N + 1) - out * (out + 1)) // 2


@count_pairs.right
def _(N, window):
    if window >= N:
        return N * (N + 1) // 2
    return N * window - window * (window - 1) // 2


@count_pairs.right
def _(N, window):
    n, rest = divmod(N, window)  # triangles, and what a last block that is not full adds
    if n == 0:
        return rest * (rest + 1) // 2
    return n * window * (window + 1) // 2 + (n - 1) * window * (window - 1) // 2 + rest * window


@count_pairs.mistake("Where the window is longer than the text it counts keys that are not there. Query i never sees more than i + 1.")
def _(N, window):
    return window * (window + 1) // 2 + (N - window) * window


@count_pairs.mistake("Every query is counted with W keys. The first ones see fewer: query i has only i + 1.")
def _(N, window):
    return N * min(N, window)


@count_pairs.mistake("Every query is counted with W keys. The first ones see fewer: query i has only i + 1.")
def _(N, window):
    return N * window


@count_pairs.mistake("This is full causal attention. From query W on, each sees W keys and no more.")
def _(N, window):
    return N * (N + 1) // 2


@count_pairs.mistake("The square is halved without its diagonal: 1 + 2 + ... + W is W (W + 1) / 2, as each query sees itself too.")
def _(N, window):
    W = min(N, window)
    return W * (W - 1) // 2 + (N - W) * W


@count_pairs.mistake("One key too many in each row: the token itself is one of the W.")
def _(N, window):
    W = min(N, window + 1)
    return W * (W + 1) // 2 + (N - W) * W


@count_pairs.mistake("One key too few in each row: the token itself and W - 1 before it are W.")
def _(N, window):
    W = min(N, window - 1)
    return W * (W + 1) // 2 + (N - W) * W


@count_pairs.mistake(FLOAT)
def _(N, window):
    out = max(0, N - window)
    return N * (N + 1) / 2 - out * (out + 1) / 2


@count_pairs.mistake(FLOAT)
def _(N, window):
    W = min(N, window)
    return W * (W + 1) / 2 + (N - W) * W


@count_pairs.mistake(FLOAT)
def _(N, window):
    W = min(N, window)
    return int(W * (W + 1) / 2 + (N - W) * W)


@count_pairs.mistake(INT64)
def _(N, window):
    W = torch.tensor(min(N, window))
    return int(W * (W + 1) // 2 + (N - W) * W)


@count_pairs.mistake("One query too many, or one too few, after the triangle: W queries are in it, and N - W come after it.")
def _(N, window):
    W = min(N, window)
    return W * (W + 1) // 2 + (N - W + 1) * W


@count_pairs.mistake("W W / 2 is the square halved through its diagonal. A triangle has all of the diagonal: W (W + 1) / 2.")
def _(N, window):
    W = min(N, window)
    return W * W // 2 + (N - W) * W


@count_pairs.mistake("That counts whole blocks of W only. N need not be a whole number of windows, and may be smaller than one.")
def _(N, window):
    n = N // window
    return n * window * (window + 1) // 2 + (n - 1) * window * (window - 1) // 2


@count_pairs.mistake("Triangles b are smaller by one than triangles o, and N need not be a whole number of windows. Count row by row.")
def _(N, window):
    return (2 * (N // window) - 1) * window * (window + 1) // 2


@count_pairs.mistake("The triangle at the start is missing, or the rows after it: there are W (W + 1) / 2 pairs, and then W in each row.")
def _(N, window):
    return max(0, N - window) * window


@count_pairs.mistake("The triangle at the start is missing, or the rows after it: there are W (W + 1) / 2 pairs, and then W in each row.")
def _(N, window):
    W = min(N, window)
    return W * (W + 1) // 2


# --- the two-triangle attention -------------------------------------------------------------------------------------------


def causal(q, k, v):
    """PyTorch's fast kernel for causal attention, with its log-sum-exp: n texts side by side, each for itself.

    q, k, v (n, T, D) -> result (n, T, D), log-sum-exp (n, T). Scores are divided by the root of D.
    Raises ValueError where there is nothing to attend, and for shapes that differ.
    """
    if not q.ndim == k.ndim == v.ndim == 3 or not q.shape == k.shape == v.shape:
        raise ValueError(f"q, k and v are {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}; expected three of one (n, T, D).")
    if not q.numel():
        raise ValueError(f"q is {tuple(q.shape)}: there is nothing to attend.")
    n, T, D = q.shape
    if kernel_pairs:
        kernel_pairs[-1] += n * masks.count(T)
    out, lse, _ = window._forward(q[None], k[None], v[None], True, D**-0.5)
    return out[0], lse[0, :, :, 0]


kernel_pairs: list[int] = []  # of each watched run: pairs that the kernel was asked for


@contextmanager
def watched():
    """While it is open, the pairs that the kernels calculate are counted; at its end they are in `counted`."""
    kernel_pairs.append(0)
    try:
        yield
    finally:
        counted.append(kernel_pairs.pop())


counted: list[int] = []  # of each run that has ended


class ByKernel(Exercise):
    """Right numbers are not enough: they must come from the kernel, and from no pair more than the window has."""

    def _judge(self, yours):
        counted.clear()
        said = super()._judge(yours)
        if self._passed:
            q, *_, W = self.cases()[-1]
            needed, took = masks.count(len(q), W), counted[-1]
            if took != needed:
                self._passed = False
                self._advice = NOT_ASKED if took < needed else TOO_MUCH
                return f"✗ {self.name}: right numbers, but the kernel was asked for {took:,} pairs, where the window has {needed:,}."
        return said


NOT_ASKED = "The numbers are right, but not by triangles. Let the kernel, causal, calculate every score: once for each kind of triangle."
TOO_MUCH = "The numbers are right, and the kernel did too much. Ask it for the triangles only: W rows a block, and W - 1 for the others."


def window_draws():
    """(q, k, v, window), T a whole number of windows: one block, W = 1, blocks of several sizes, and a longer text."""
    sizes = [(2, 2, 3), (4, 2, 3), (3, 1, 2), (6, 3, 4), (12, 4, 5), (6, 6, 2), (20, 2, 6), (2_048, 32, 4)]
    g = torch.Generator().manual_seed(16)
    return [(*torch.randn(3, T, D, generator=g), W) for T, W, D in sizes]


attend_window = ByKernel(
    "attend_window",
    cases=window_draws,
    within=watched,
    forbid=("scaled_dot_product_attention",),
    hints=[
        "Cut first: x.view(n, W, D) with n = T // W turns (T, D) into n blocks. causal(q, k, v) on these is all of the first kind.",
        "The second kind: queries of the blocks 1, 2, ... (q[1:]), keys of the blocks before (k[:-1]). Of the queries all offsets "
        "but the last, [:, :-1]; of the keys and values all but the first, [:, 1:]. Then .flip(1) on each, for the kernel.",
        "What comes back is in reversed order too: flip both the result and the log-sum-exp, and merge them with "
        "out[1:, :-1] and lse[1:, :-1]. With W = 1 or a single block there is nothing of the second kind.",
    ],
)


joined = merge.answer


@attend_window.reference
def _(q, k, v, window):
    T, D = q.shape
    q, k, v = (x.view(T // window, window, D) for x in (q, k, v))
    out, lse = causal(q, k, v)
    if window > 1 and len(q) > 1:
        other, other_lse = causal(q[1:, :-1].flip(1), k[:-1, 1:].flip(1), v[:-1, 1:].flip(1))
        share = torch.sigmoid(other_lse.flip(1) - lse[1:, :-1]).unsqueeze(-1)
        out[1:, :-1] = (1 - share) * out[1:, :-1] + share * other.flip(1)
    return out.reshape(T, D)


@attend_window.right
def _(q, k, v, window):
    T, D = q.shape
    parts = []
    for start in range(0, T, window):  # block by block
        own = slice(start, start + window)
        out, lse = causal(q[own][None], k[own][None], v[own][None])
        if start and window > 1:
            rows, columns = slice(start, start + window - 1), slice(start - window + 1, start)
            backwards = [x.flip(0)[None] for x in (q[rows], k[columns], v[columns])]
            other, other_lse = (x.flip(1) for x in causal(*backwards))
            shares = torch.stack((lse[:, :-1], other_lse)).softmax(0).unsqueeze(-1)
            merged = shares[0] * out[:, :-1] + shares[1] * other
            out = torch.cat((merged, out[:, -1:]), dim=1)
        parts.append(out[0])
    return torch.cat(parts)


@attend_window.right
def _(q, k, v, window):
    T, D = q.shape
    n = T // window
    own, own_lse = causal(*(x.reshape(n, window, D) for x in (q, k, v)))
    if n == 1 or window == 1:
        return own.reshape(T, D)
    turned = [x.flip(0).reshape(n, window, D) for x in (q, k, v)]  # the whole text backwards: now the block before comes after
    other, other_lse = causal(turned[0][:-1, 1:], turned[1][1:, :-1], turned[2][1:, :-1])
    empty = torch.zeros(n - 1, 1, D), torch.full((n - 1, 1), float("-inf"))
    other = torch.cat((torch.cat((empty[0], other), 1), torch.zeros(1, window, D))).reshape(T, D).flip(0)
    other_lse = torch.cat((torch.cat((empty[1], other_lse), 1), torch.full((1, window), float("-inf")))).reshape(T).flip(0)
    return joined(own.reshape(1, T, D), own_lse.reshape(1, T), other[None], other_lse[None])[0][0]


def spoiled(q, k, v, window, rows=slice(None, -1), columns=slice(1, None), ahead=False, backwards=(1, 1, 1), back=True,
            back_lse=True, how=joined):
    """The right answer with one thing changed, for the mistakes below."""
    T, D = q.shape
    q, k, v = (x.reshape(T // window, window, D) for x in (q, k, v))
    out, lse = causal(q, k, v)
    if window > 1 and len(q) > 1:
        later, earlier = (slice(None, -1), slice(1, None)) if ahead else (slice(1, None), slice(None, -1))
        inputs = (q[later, rows], k[earlier, columns], v[earlier, columns])
        other, other_lse = causal(*(x.flip(1) if turn else x for x, turn in zip(inputs, backwards, strict=True)))
        other = other.flip(1) if back else other
        other_lse = other_lse.flip(1) if back_lse else other_lse
        out = out.clone()
        out[later, rows] = how(out[later, rows], lse[later, rows], other, other_lse)[0]
    return out.reshape(T, D)


@attend_window.mistake("Only the triangles of the first kind: each block for itself. What a query sees in the block before is missing.")
def _(q, k, v, window):
    n, D = len(q) // window, q.shape[1]
    return causal(*(x.reshape(n, window, D) for x in (q, k, v)))[0].reshape(len(q), D)


@attend_window.mistake("The triangles of the second kind are read forwards. A query sees the *later* keys there: reverse both orders.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, backwards=(0, 0, 0), back=False, back_lse=False)


@attend_window.mistake("The values are read forwards, and their keys backwards: each weight goes to the value of another key. Reverse all three.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, backwards=(1, 1, 0))


@attend_window.mistake("The keys are read forwards, their queries and values backwards. Reverse all three.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, backwards=(1, 0, 1))


@attend_window.mistake("The queries are read forwards, and the keys backwards: the first query sees one key, where it must see the most.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, backwards=(0, 1, 1), back=False, back_lse=False)


@attend_window.mistake("What the kernel gave for the reversed triangles is still in reversed order: flip the result and its log-sum-exp back.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, back=False, back_lse=False)


@attend_window.mistake("The result is flipped back and its log-sum-exp is not: the shares go to the wrong rows.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, back_lse=False)


@attend_window.mistake("The log-sum-exp is flipped back and the result is not.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, back=False)


@attend_window.mistake("One key too many: the triangles of the second kind are W - 1 high. Offset r of a block does not see offset r before it.")
def _(q, k, v, window):
    T, D = q.shape
    q, k, v = (x.reshape(T // window, window, D) for x in (q, k, v))
    out, lse = causal(q, k, v)
    if len(q) > 1:
        other, other_lse = (x.flip(1) for x in causal(*(x.flip(1) for x in (q[1:], k[:-1], v[:-1]))))
        out = torch.cat((out[:1], joined(out[1:], lse[1:], other, other_lse)[0]))
    return out.reshape(T, D)


@attend_window.mistake("The queries are one off: offset 0 of a block sees the most of the block before, and the last offset nothing.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, rows=slice(1, None))


@attend_window.mistake("The keys are one off: of the block before, the first key is out of the window, and the last one is seen most.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, columns=slice(None, -1))


@attend_window.mistake("A block looks at the block *after* it, which is the future: queries of block 1 go with keys of block 0.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, ahead=True)


@attend_window.mistake("The two results are averaged. Merge them by their log-sum-exps.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, how=lambda a, x, b, y: ((a + b) / 2, x))


@attend_window.mistake("The two results are added. Merge them by their log-sum-exps.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, how=lambda a, x, b, y: (a + b, x))


@attend_window.mistake("Of the two results the one with the larger log-sum-exp takes all. Merge them: both count.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, how=lambda a, x, b, y: (torch.where((x > y)[..., None], a, b), x))


@attend_window.mistake("The shares are made from the log-sum-exps themselves. They are logarithms: the sums are exp of them.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, how=lambda a, x, b, y: (a + (y / (x + y))[..., None] * (b - a), x))


@attend_window.mistake("The first block has none before it. What roll() puts there is the last block: the future.")
def _(q, k, v, window):
    return with_a_block_before(q, k, v, window, lambda x: x.roll(1, 0))


@attend_window.mistake("The first block has none before it. Keys of 0 are keys all the same: their scores are 0, and e to the power of 0 is 1.")
def _(q, k, v, window):
    return with_a_block_before(q, k, v, window, lambda x: torch.cat((torch.zeros_like(x[:1]), x[:-1])))


def with_a_block_before(q, k, v, window, before):
    """The right answer, but for a block before the first one."""
    T, D = q.shape
    q, k, v = (x.reshape(T // window, window, D) for x in (q, k, v))
    out, lse = causal(q, k, v)
    if window > 1:
        other, other_lse = (x.flip(1) for x in causal(*(x.flip(1) for x in (q[:, :-1], before(k)[:, 1:], before(v)[:, 1:]))))
        out = torch.cat((joined(out[:, :-1], lse[:, :-1], other, other_lse)[0], out[:, -1:]), dim=1)
    return out.reshape(T, D)


@attend_window.mistake("The cut is wrong: a block is W tokens in a row, so (n, W, D). A view as (W, n, D) deals them out in turn.")
def _(q, k, v, window):
    T, D = q.shape
    n = T // window
    dealt = (x.reshape(window, n, D).transpose(0, 1).reshape(T, D) for x in (q, k, v))
    return attend_window.answer(*dealt, window)


@attend_window.mistake("A causal call over two blocks lets a query see the *whole* block before. Offsets 0 to r of it are out of the window.")
def _(q, k, v, window):
    parts = []
    for start in range(0, len(q), window):
        first = max(0, start - window)
        parts.append(causal(*(x[first : start + window][None] for x in (q, k, v)))[0][0, start - first :])
    return torch.cat(parts)


@attend_window.mistake("The scores are divided by the root of D twice: the kernel does it itself.")
def _(q, k, v, window):
    return attend_window.answer(q / q.shape[1] ** 0.5, k, v, window)


@attend_window.mistake("The two are merged with their shares swapped.")
def _(q, k, v, window):
    return spoiled(q, k, v, window, how=lambda a, x, b, y: joined(a, y, b, x))


@attend_window.mistake("This is full causal attention, without any window.")
def _(q, k, v, window):
    return causal(q[None], k[None], v[None])[0][0]


@attend_window.mistake("With W = 1, or with a single block, there is nothing of the second kind, and the kernel takes nothing for an answer.")
def _(q, k, v, window):
    T, D = q.shape
    q, k, v = (x.view(T // window, window, D) for x in (q, k, v))
    out, lse = causal(q, k, v)
    other, other_lse = causal(q[1:, :-1].flip(1), k[:-1, 1:].flip(1), v[:-1, 1:].flip(1))
    out[1:, :-1] = joined(out[1:, :-1], lse[1:, :-1], other.flip(1), other_lse.flip(1))[0]
    return out.reshape(T, D)


@attend_window.mistake("With W = 1 there is nothing of the second kind: triangles of height W - 1 = 0. Ask for that first.")
def _(q, k, v, window):
    T, D = q.shape
    q, k, v = (x.view(T // window, window, D) for x in (q, k, v))
    out, lse = causal(q, k, v)
    if len(q) > 1:
        other, other_lse = causal(q[1:, :-1].flip(1), k[:-1, 1:].flip(1), v[:-1, 1:].flip(1))
        out[1:, :-1] = joined(out[1:, :-1], lse[1:, :-1], other.flip(1), other_lse.flip(1))[0]
    return out.reshape(T, D)


@attend_window.mistake("The blocks are still there: (n, W, D). The result is (T, D): reshape it back.")
def _(q, k, v, window):
    return spoiled(q, k, v, window).reshape(len(q) // window, window, -1)


@attend_window.mistake(NOT_ASKED)
def _(q, k, v, window):
    at = torch.arange(len(q))
    seen = (at <= at[:, None]) & (at > at[:, None] - window)
    powers = (q @ k.T / q.shape[1] ** 0.5).masked_fill(~seen, float("-inf")).exp()
    return powers / powers.sum(1, keepdim=True) @ v


@attend_window.mistake(NOT_ASKED)
def _(q, k, v, window):
    rows = []
    for i in range(len(q)):
        first = max(0, i - window + 1)
        powers = (k[first : i + 1] @ q[i] / q.shape[1] ** 0.5).exp()
        rows.append(powers @ v[first : i + 1] / powers.sum())
    return torch.stack(rows)


@attend_window.mistake(TOO_MUCH)
def _(q, k, v, window):
    causal(q[None], k[None], v[None])
    return spoiled(q, k, v, window)


# --- the aside: no way back through the log-sum-exp -----------------------------------------------------------------------


def by_autograd(q, k, v, W):
    """Two triangles, (T, D), with the way back left to autograd: the result is right, the gradients of q and k are not."""
    q, k, v = (x.view(-1, W, x.shape[1]) for x in (q, k, v))
    own, own_lse = causal(q, k, v)
    turned = [x.flip(1) for x in (q[1:, :-1], k[:-1, 1:], v[:-1, 1:])]
    other, other_lse = (x.flip(1) for x in causal(*turned))
    both, _ = joined(own[1:, :-1], own_lse[1:, :-1], other, other_lse)
    return torch.cat((own[:1], torch.cat((both, own[1:, -1:]), 1))).flatten(0, 1)


def gradients(attend, inputs, pull):
    """Of q, k and v, for a result that is pulled into some direction."""
    with torch.enable_grad():
        return torch.autograd.grad((attend(*inputs) * pull).sum(), inputs)


# --- a ceiling ------------------------------------------------------------------------------------------------------------


ceiling = Exercise(
    "ceiling",
    cases=lambda: [
        (90.0, 10.0, 1, 1.0), (100.0, 9.0, 2, 1.0), (0.0, 70.0, 4, 1.0), (30.0, 16.0, 4, 1.0), (30.0, 16.0, 4, 0.5), (50.0, 200.0, 10, 2.0),
        (228.7, 70.4, 4, 1.0), (228.7, 70.4, 4, 0.5), (1_829.5, 4_503.6, 32, 0.5), (500.0, 0.0, 8, 0.25),
    ],
    hints=[
        "Time is operations over rate. Matrix products take `linear`; full attention takes attention / rate.",
        "With the window, attention has (2n - 1) / n² of its operations left. The matrix products do not care.",
        "The ratio is the time of the whole with full attention, over the time of the whole with the window. Above 1, if any.",
    ],
)  # fmt: skip


@ceiling.reference
def _(linear, attention, n, rate):
    full = attention / rate
    near = full * (2 * n - 1) / n**2
    return (linear + full) / (linear + near)


@ceiling.right
def _(linear, attention, n, rate):
    return (linear * rate + attention) / (linear * rate + attention / (n * n / (2 * n - 1)))


@ceiling.right
def _(linear, attention, n, rate):
    share = attention / rate / (linear + attention / rate)  # Amdahl: of the time, what gets faster
    return 1 / (1 - share + share * (2 * n - 1) / n**2)


@ceiling.right
def _(linear, attention, n, rate):
    triangle = attention / n**2
    return (rate * linear + n * n * triangle) / (rate * linear + n * triangle + (n - 1) * triangle)


def share_left(n):
    """The triangles of a window over those of full attention, for n windows."""
    return (2 * n - 1) / n**2


@ceiling.mistake("That is the ceiling of attention alone. The matrix products take time too, and they get no faster.")
def _(linear, attention, n, rate):
    return n**2 / (2 * n - 1)


@ceiling.mistake("The rate is left out: where attention runs at half the rate, its operations take twice the time.")
def _(linear, attention, n, rate):
    return (linear + attention) / (linear + attention * share_left(n))


@ceiling.mistake("The rate goes the wrong way, or to the wrong part: attention's time is its operations over the rate.")
def _(linear, attention, n, rate):
    return (linear + attention * rate) / (linear + attention * rate * share_left(n))


@ceiling.mistake("Upside down: how many times as *fast* is asked for, so the longer time goes over the shorter.")
def _(linear, attention, n, rate):
    return (linear + attention / rate * share_left(n)) / (linear + attention / rate)


@ceiling.mistake("Attention has not n times fewer pairs. Only the last rows have; in triangles it is n² against 2n - 1.")
def _(linear, attention, n, rate):
    return (linear + attention / rate) / (linear + attention / rate / n)


@ceiling.mistake("Count the triangles once more: n of the first kind and n - 1 of the second.")
def _(linear, attention, n, rate):
    return (linear + attention / rate) / (linear + attention / rate * 2 / n)


@ceiling.mistake("Count the triangles once more: n of the first kind and n - 1 of the second.")
def _(linear, attention, n, rate):
    return (linear + attention / rate) / (linear + attention / rate * (2 * n + 1) / n**2)


@ceiling.mistake("Full attention over n blocks is n² triangles: n of them lie on the diagonal, and each of n (n - 1) / 2 squares is two.")
def _(linear, attention, n, rate):
    return (linear + attention / rate) / (linear + attention / rate * (2 * n - 1) / (n * (n + 1) / 2))


@ceiling.mistake("With the window attention does not cost nothing: (2n - 1) / n² of it is left.")
def _(linear, attention, n, rate):
    return (linear + attention / rate) / linear if linear else float("inf")


@ceiling.mistake("The rate counts in both lines, with the window and without.")
def _(linear, attention, n, rate):
    return (linear + attention / rate) / (linear + attention * share_left(n))


@ceiling.mistake("The rate counts in both lines, with the window and without.")
def _(linear, attention, n, rate):
    return (linear + attention) / (linear + attention / rate * share_left(n))


@ceiling.mistake("`attention` is *full* attention. The window makes it less; it is not what is left with the window.")
def _(linear, attention, n, rate):
    return (linear + attention / rate / share_left(n)) / (linear + attention / rate)


@ceiling.mistake("That is how much more than once: where nothing is won, the whole is 1 time as fast, not 0.")
def _(linear, attention, n, rate):
    return (linear + attention / rate) / (linear + attention / rate * share_left(n)) - 1


@ceiling.mistake("That is the part of the time that is saved. How many times as fast is the time before, over the time after.")
def _(linear, attention, n, rate):
    return 1 - (linear + attention / rate * share_left(n)) / (linear + attention / rate)


@ceiling.mistake("It is rounded. Give the number as it comes.")
def _(linear, attention, n, rate):
    return round((linear + attention / rate) / (linear + attention / rate * share_left(n)), 2)


@ceiling.mistake("7/16 is for four windows. For n windows (2n - 1) / n² is left.")
def _(linear, attention, n, rate):
    return (linear + attention / rate) / (linear + attention / rate * 7 / 16)


@ceiling.mistake("Matrix products and attention come one after the other: their times are added. The longer one alone is not the time.")
def _(linear, attention, n, rate):
    return max(linear, attention / rate) / max(linear, attention / rate * share_left(n))


@ceiling.mistake("// rounds down to a whole number. Divide with /.")
def _(linear, attention, n, rate):
    return (linear + attention / rate) // (linear + attention / rate * share_left(n))


@ceiling.mistake("Of n² triangles 2n - 1 are left: (2n - 1) / n². It is divided by n, not by n².")
def _(linear, attention, n, rate):
    return (linear + attention / rate) / (linear + attention / rate * (2 * n - 1) / n)


@ceiling.mistake("Either of the two may be 0, so divide by neither. Divide only a whole time by a whole time.")
def _(linear, attention, n, rate):
    return (linear / attention + 1 / rate) / (linear / attention + share_left(n) / rate)


@ceiling.mistake("Either of the two may be 0, so divide by neither. Divide only a whole time by a whole time.")
def _(linear, attention, n, rate):
    part = attention / rate / linear
    return (1 + part) / (1 + part * share_left(n))


# --- lines that cannot stand ----------------------------------------------------------------------------------------------

LINES = {
    "A": ("window attention is 2.00 times as fast", "attention operator, float32", "causal kernel, float32", 7, "1.99 to 2.01"),
    "B": ("window attention beats a mask 4.4 times", "attention operator, float32", "dense mask, float32", 7, "4.3 to 4.5"),
    "C": ("window attention is 2.9 times as fast", "attention operator, bfloat16", "causal kernel, float32", 7, "2.8 to 3.0"),
    "D": ("the 7B reads a prompt 1.2 times as fast", "whole pre-fill, bfloat16", "full attention, bfloat16", 7, "1.19 to 1.22"),
    "E": ("the 7B reads a prompt 2.1 times as fast", "attention operator, bfloat16", "causal kernel, bfloat16", 7, "2.0 to 2.2"),
    "F": ("the 7B writes faster, batch 1", "decode, bfloat16, 1.06 times", "full cache, bfloat16", 7, "0.98 to 1.13"),
    "G": ("the 7B writes 2.4 times as fast, batch 32", "decode, bfloat16", "full cache, bfloat16", 7, "2.3 to 2.5"),
}
HONEST = {
    "A": "Line A stands: one operator against one operator, the same dtype, and 2.00 is under 2.286.",
    "B": "Line B stands. 4.4 is above 2.286, but it says against what: a mask calculates every score, and the line claims no more.",
    "D": "Line D stands: the whole pre-fill was timed, and 1.2 lies within 1.15 to 1.27.",
    "G": "Line G stands: with 32 texts the caches weigh more than the weights, and bytes allow 2.64.",
}
MISSING = ("Right so far, and {} more cannot stand. Hold each ratio against its ceiling, each claim against what was timed, both "
           "dtypes against each other, and each spread against 1.")  # fmt: skip
LETTERS = "Write the letters in a string, as in \"AB\", in any order."


def lines() -> str:
    """The table of the exercise. Its numbers are made up; its faults are not."""
    heads = ("", "what it says", "what was timed", "held against", "rounds", "middle half")
    rows = [heads, *((letter, *map(str, row)) for letter, row in LINES.items())]
    wide = [max(len(row[n]) for row in rows) for n in range(len(heads))]
    return "\n".join("  ".join(f"{cell:{w}}" for cell, w in zip(row, wide, strict=True)).rstrip() for row in rows)


class Letters(Exercise):
    """Takes letters in any order and case, with or without commas, or a list of them; names an honest line that is accused."""

    def _judge_value(self, yours):
        if isinstance(yours, list | tuple | set | frozenset) and all(isinstance(one, str) for one in yours):
            yours = "".join(yours)
        if isinstance(yours, str):
            self._yours = "".join(sorted({letter for letter in yours.upper() if letter.isalnum()}))
            return super()._judge_value(self._yours)
        return super()._judge_value(yours)

    def _likely(self):
        if not isinstance(self._yours, str) or not self._yours or not set(self._yours) <= set(LINES):
            return LETTERS
        for letter in self._yours:
            if letter in HONEST:
                return HONEST[letter]
        return MISSING.format({1: "one", 2: "two"}[3 - len(self._yours)])


cannot_stand = Letters(
    "cannot_stand",
    hints=[
        "At N = 16,384 and W = 4,096: attention alone at most 2.286, a whole pre-fill some 1.15 to 1.27, decode at batch 1 at most 1.11.",
        "Three lines. In one the thing timed is not the thing claimed; in one the two sides are not the same but for the window; "
        "and one claims a difference that its own spread does not show.",
    ],
)


@cannot_stand.reference
def _():
    return "CEF"


@cannot_stand.right
def _():
    return "fce"


@cannot_stand.right
def _():
    return ["C", "E", "F"]


@cannot_stand.right
def _():
    return "E, C, F"


for _letter, _sentence in HONEST.items():
    cannot_stand.mistake(_sentence)(lambda letter=_letter: f"C{letter}EF")


@cannot_stand.mistake(MISSING.format("one"))
def _():
    return "CF"


@cannot_stand.mistake(MISSING.format("two"))
def _():
    return "E"


@cannot_stand.mistake(LETTERS)
def _():
    return 3
