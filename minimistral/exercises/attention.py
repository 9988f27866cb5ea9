"""Chapter 01: one query by hand, causal attention for all of them, the kernel in one line, and several heads."""

import math

import torch
import torch.nn.functional as F

from minimistral.exercises.frame import Exercise

# --- by hand --------------------------------------------------------------------------------------------------------------

share_of_cat = Exercise(
    "share_of_cat",
    tolerance=5e-3,
    hints=[
        "Three tokens are seen, with the scores 1 (cat), 0 (sat) and 1 (it). Raise e = 2.718 to each.",
        "e to the power of 0 is 1. So the three numbers are 2.718, 1 and 2.718.",
        "Divide cat's number by the sum of all three.",
    ],
)


@share_of_cat.reference
def _():
    return round(math.e / (math.e + 1 + math.e), 3)


@share_of_cat.right
def _():
    return 0.42


@share_of_cat.right
def _():
    return 0.4223


@share_of_cat.mistake("A half would be right if a score of 0 counted nothing. Softmax raises e to each score first, and e to the power of 0 is 1.")
def _():
    return 0.5


@share_of_cat.mistake("It leaves out the token itself: *it* sees *it* too.")
def _():
    return round(math.e / (math.e + 1), 3)


@share_of_cat.mistake("Equal shares for all three would need equal scores.")
def _():
    return 0.333


@share_of_cat.mistake("This is what 2 to the power of the score gives; softmax takes e = 2.718. (If you rounded 0.42, keep two digits.)")
def _():
    return 0.4


@share_of_cat.mistake("This is the share of *sat*, the one with the score 0.")
def _():
    return 0.155


@share_of_cat.mistake("This is e to the power of cat's score, before it is divided by the sum of all three.")
def _():
    return 2.718


# --- causal attention -----------------------------------------------------------------------------------------------------


def _draws():
    """(q, k, v) of several sizes, T and D never equal; small first; the last with scores so large that exp alone overflows."""
    g = torch.Generator().manual_seed(1)
    cases = [tuple(torch.randn(T, D, generator=g) for _ in range(3)) for T, D in ((2, 3), (1, 4), (5, 2), (4, 7), (9, 16))]
    big = [torch.randn(6, 8, generator=g) for _ in range(3)]
    return [*cases, (big[0] * 40, big[1] * 40, big[2])]


def _causal(T):
    return torch.ones(T, T, dtype=torch.bool).tril()


attend = Exercise(
    "attend",
    cases=_draws,
    forbid=("scaled_dot_product_attention", "multi_head_attention_forward"),
    hints=[
        "All scores at once: q @ k.T has one row for each query and one column for each key. Divide by the square root of D.",
        "The mask is torch.ones(T, T).tril() == 1. Put float('-inf') where it is False, with masked_fill, before the softmax.",
        "softmax(-1): each row sums to 1. Then weights @ v.",
    ],
)


@attend.reference
def _(q, k, v):
    T, D = q.shape
    scores = q @ k.T / math.sqrt(D)
    future = torch.ones(T, T).triu(1).bool()
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return weights @ v


@attend.right
def _(q, k, v):
    T, D = q.shape
    out = torch.zeros_like(v)
    for i in range(T):
        scores = torch.stack([q[i] @ k[j] for j in range(i + 1)]) / D**0.5
        powers = torch.exp(scores - scores.max())
        out[i] = sum(w * v[j] for j, w in enumerate(powers / powers.sum()))
    return out


@attend.right
def _(q, k, v):
    T, D = q.shape
    scores = torch.einsum("id,jd->ij", q, k) * D**-0.5
    at = torch.arange(T)
    scores = torch.where(at[:, None] >= at[None, :], scores, torch.tensor(-torch.inf))
    return torch.einsum("ij,jd->id", torch.softmax(scores, dim=1), v)


@attend.right
def _(q, k, v):
    T, D = q.shape
    scores = (q[:, None] * k[None]).sum(-1) / D**0.5 + torch.full((T, T), float("-inf")).triu(1)
    return (scores.softmax(-1)[:, :, None] * v[None]).sum(1)


@attend.mistake("The scores are not divided by the square root of D.")
def _(q, k, v):
    return (q @ k.T).masked_fill(~_causal(len(q)), float("-inf")).softmax(-1) @ v


@attend.mistake("The scores are divided by D; it should be the square root of D.")
def _(q, k, v):
    return (q @ k.T / q.shape[1]).masked_fill(~_causal(len(q)), float("-inf")).softmax(-1) @ v


@attend.mistake("The scores are divided by the square root of T, the number of positions; it should be D, the size of a vector.")
def _(q, k, v):
    return (q @ k.T / len(q) ** 0.5).masked_fill(~_causal(len(q)), float("-inf")).softmax(-1) @ v


@attend.mistake("The future is masked after the softmax: its share is thrown away and the rows no longer sum to 1.")
def _(q, k, v):
    return (q @ k.T / q.shape[1] ** 0.5).softmax(-1).masked_fill(~_causal(len(q)), 0) @ v


@attend.mistake("-100 is not low enough to hide the future: real scores can lie below it. Use float('-inf').")
def _(q, k, v):
    return (q @ k.T / q.shape[1] ** 0.5).masked_fill(~_causal(len(q)), -100).softmax(-1) @ v


@attend.mistake("Masked scores are set to 0. A score of 0 is a score like any other: e to the power of 0 is 1. It must be -inf.")
def _(q, k, v):
    return (q @ k.T / q.shape[1] ** 0.5).masked_fill(~_causal(len(q)), 0).softmax(-1) @ v


@attend.mistake("There is no mask: every token sees the future.")
def _(q, k, v):
    return (q @ k.T / q.shape[1] ** 0.5).softmax(-1) @ v


@attend.mistake("The mask hides each token from itself. Position i sees 0 to i, itself included; here position 0 sees nothing at all.")
def _(q, k, v):
    seen = torch.ones(len(q), len(q)).tril(-1).bool()
    return (q @ k.T / q.shape[1] ** 0.5).masked_fill(~seen, float("-inf")).softmax(-1) @ v


@attend.mistake("The mask is the wrong way round: it hides the past and shows the future.")
def _(q, k, v):
    return (q @ k.T / q.shape[1] ** 0.5).masked_fill(~_causal(len(q)).T, float("-inf")).softmax(-1) @ v


@attend.mistake("The softmax runs down the columns. Each query's weights, a row, must sum to 1: softmax(-1).")
def _(q, k, v):
    return (q @ k.T / q.shape[1] ** 0.5).masked_fill(~_causal(len(q)), float("-inf")).softmax(0) @ v


@attend.mistake("Queries and keys have changed places: row i must be query i against all keys, q @ k.T.")
def _(q, k, v):
    return (k @ q.T / q.shape[1] ** 0.5).masked_fill(~_causal(len(q)), float("-inf")).softmax(-1) @ v


@attend.mistake("The weights mix the keys; they must mix the values.")
def _(q, k, v):
    return (q @ k.T / q.shape[1] ** 0.5).masked_fill(~_causal(len(q)), float("-inf")).softmax(-1) @ k


@attend.mistake("It returns the weights themselves. Multiply them with the values: weights @ v.")
def _(q, k, v):
    return (q @ k.T / q.shape[1] ** 0.5).masked_fill(~_causal(len(q)), float("-inf")).softmax(-1)


@attend.mistake("exp() overflows for large scores and gives NaN. Take the row's largest score off first, or use softmax(-1).")
def _(q, k, v):
    powers = torch.exp((q @ k.T / q.shape[1] ** 0.5).masked_fill(~_causal(len(q)), float("-inf")))
    return powers / powers.sum(-1, keepdim=True) @ v


@attend.mistake("Nothing is weighed: this is the plain average of the values seen so far.")
def _(q, k, v):
    return v.cumsum(0) / torch.arange(1, len(v) + 1)[:, None]


# --- the kernel in one line -----------------------------------------------------------------------------------------------

attend_sdpa = Exercise(
    "attend_sdpa",
    cases=_draws,
    hints=[
        "torch.nn.functional.scaled_dot_product_attention(q, k, v, ...) scales by itself. What does it not do by itself?",
        "is_causal=True.",
    ],
)


@attend_sdpa.reference
def _(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@attend_sdpa.right
def _(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(len(q), len(q)).tril().bool())


@attend_sdpa.right
def _(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.full((len(q), len(q)), float("-inf")).triu(1))


@attend_sdpa.mistake("It is not causal: is_causal is False unless you say otherwise.")
def _(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


@attend_sdpa.mistake("The mask is upside down: in this function True means *may see*. (Elsewhere in PyTorch it means the opposite.)")
def _(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(len(q), len(q)).triu(1).bool())


@attend_sdpa.mistake("A float mask is added to the scores: ones and zeros hide nothing. Use bool, or 0 and -inf.")
def _(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(len(q), len(q)).tril())


@attend_sdpa.mistake("It scales twice: the function divides by the square root of D already.")
def _(q, k, v):
    return F.scaled_dot_product_attention(q / q.shape[1] ** 0.5, k, v, is_causal=True)


# --- several heads --------------------------------------------------------------------------------------------------------


def _head_draws():
    g = torch.Generator().manual_seed(2)
    sizes = ((2, 3, 4), (5, 1, 6), (3, 4, 2), (7, 2, 5))  # T, H, D: all different
    return [(*(torch.randn(T, H * D, generator=g) for _ in range(3)), H) for T, H, D in sizes]


def _per_head(q, k, v):
    """(T, D) each: the reference for one head."""
    return attend.answer(q, k, v)


def _split(x, n_heads):
    return x.view(len(x), n_heads, -1).transpose(0, 1)


multi_head = Exercise(
    "multi_head",
    cases=_head_draws,
    forbid=("multi_head_attention_forward",),
    hints=[
        "Head h owns the columns h*D to (h+1)*D of q, of k and of v, where D = width // n_heads.",
        "With a loop: attend(q[:, cols], k[:, cols], v[:, cols]) for each head, then torch.cat(..., dim=1).",
        "Without: x.view(T, n_heads, D).transpose(0, 1) is (H, T, D); undo both at the end.",
    ],
)


@multi_head.reference
def _(q, k, v, n_heads):
    D = q.shape[1] // n_heads
    heads = []
    for h in range(n_heads):
        cols = slice(h * D, (h + 1) * D)
        heads.append(F.scaled_dot_product_attention(q[:, cols], k[:, cols], v[:, cols], is_causal=True))
    return torch.cat(heads, dim=1)


@multi_head.right
def _(q, k, v, n_heads):
    T = len(q)
    q, k, v = (x.view(T, n_heads, -1).transpose(0, 1) for x in (q, k, v))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf")).softmax(-1)
    return (weights @ v).transpose(0, 1).reshape(T, -1)


@multi_head.right
def _(q, k, v, n_heads):
    parts = [x.chunk(n_heads, dim=1) for x in (q, k, v)]
    return torch.cat([F.scaled_dot_product_attention(*head, is_causal=True) for head in zip(*parts, strict=True)], 1)


@multi_head.right
def _(q, k, v, n_heads):
    T = q.shape[0]
    q, k, v = (x.reshape(T, n_heads, -1) for x in (q, k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
    scores = scores + torch.full((T, T), float("-inf")).triu(1)
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1)


@multi_head.mistake("There is one head over the whole width. Each head scores and mixes only its own columns.")
def _(q, k, v, n_heads):
    return _per_head(q, k, v)


@multi_head.mistake("view(n_heads, T, D) cuts the rows, not the columns: one head gets the first tokens, the next the later ones. "
                    "view(T, n_heads, D), then transpose(0, 1).")
def _(q, k, v, n_heads):
    T = len(q)
    q, k, v = (x.reshape(n_heads, T, -1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(T, -1)


@multi_head.mistake("The heads are right, but joined in the wrong order: transpose(0, 1) back before you flatten.")
def _(q, k, v, n_heads):
    T = len(q)
    q, k, v = (_split(x, n_heads) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).reshape(T, -1)


@multi_head.mistake("Each head is scaled by the whole width; it should be by its own D = width // n_heads.")
def _(q, k, v, n_heads):
    scale = q.shape[1] ** -0.5
    q, k, v = (_split(x, n_heads) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(0, 1).flatten(1)


@multi_head.mistake("The columns are dealt out in turn: head h gets h, h + H, h + 2H ... It should get D neighbouring columns.")
def _(q, k, v, n_heads):
    T = len(q)
    q, k, v = (x.view(T, -1, n_heads).permute(2, 0, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).permute(1, 2, 0).reshape(T, -1)


@multi_head.mistake("The heads are laid under each other. Side by side means along the columns: torch.cat(heads, dim=1).")
def _(q, k, v, n_heads):
    q, k, v = (_split(x, n_heads) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).flatten(0, 1)


@multi_head.mistake("The heads are averaged. They are laid side by side, so that the width stays what it was.")
def _(q, k, v, n_heads):
    q, k, v = (_split(x, n_heads) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).mean(0)


@multi_head.mistake("It is not causal: every head sees the future.")
def _(q, k, v, n_heads):
    q, k, v = (_split(x, n_heads) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
