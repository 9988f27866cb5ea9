"""Chapter 02: a score between turned vectors by hand, rotary positions for a whole head, and the rows of the other layout."""

import math

import torch

from minimistral.exercises.frame import Exercise

# --- by hand --------------------------------------------------------------------------------------------------------------

turned_score = Exercise(
    "turned_score",
    hints=[
        "Four quarter turns bring a vector back. So 6 of them are 2, and 3 stay 3.",
        "A quarter turn to the left takes (x, y) to (-y, x). Two take it to (-x, -y), three to (y, -x).",
        "The query becomes (-3, -1), the key (1, -2). Multiply coordinate by coordinate, and add.",
    ],
)


@turned_score.reference
def _():
    query = (-3, -1)  # (3, 1) after 6 quarter turns, which are 2
    key = (1, -2)  # (2, 1) after 3 quarter turns
    return query[0] * key[0] + query[1] * key[1]


@turned_score.right
def _():
    return -1.0


@turned_score.mistake("This is the score before anything is turned: 3·2 + 1·1.")
def _():
    return 7


@turned_score.mistake("Only the query was turned. The key is turned too, by its own position.")
def _():
    return -7


@turned_score.mistake("Only the key was turned, or both to the right (clockwise). Turn both to the left: (x, y) becomes (-y, x).")
def _():
    return 1


@turned_score.mistake("The products 3 and 2 are right in size; one has a wrong sign: (-3)·1 is negative, (-1)·(-2) is positive.")
def _():
    return 5


@turned_score.mistake("The products 3 and 2 are right in size; one has a wrong sign: (-3)·1 is negative, (-1)·(-2) is positive.")
def _():
    return -5


# --- a whole head ---------------------------------------------------------------------------------------------------------


def _draws():
    """(x, positions, theta), T and D never equal. Once the positions are 0, 1, 2; elsewhere they are not the row numbers.

    No position is above 301: there float32 is exact to 2e-5, so that all ways of writing it agree. The bfloat16 numbers of the
    last case are drawn so that no exact result lies near the middle between two bfloat16 values.
    """
    g = torch.Generator().manual_seed(2)

    def draw(T, D):
        return torch.randn(T, D, generator=g)

    return [
        (torch.tensor([[1.0, 0.0]]), torch.tensor([1]), 100.0),
        (torch.tensor([[1.0, 0.0, 1.0, 0.0]]), torch.tensor([3]), 100.0),
        (draw(3, 8), torch.tensor([0, 1, 2]), 1e4),
        (draw(5, 6), torch.tensor([7, 2, 301, 40, 41]), 1e4),
        (draw(2, 12), torch.tensor([250, 12]), 1e6),
        (draw(4, 10).bfloat16(), torch.tensor([5, 301, 77, 130]), 1e4),
    ]


rotate = Exercise(
    "rotate",
    cases=_draws,
    hints=[
        "Begin with the speeds, one for each pair: theta ** (-torch.arange(0, D, 2) / D). They are D/2 numbers, the first is 1.",
        "angle = positions[:, None] * speeds is (T, D/2). Take its cos() and sin().",
        "even, odd = x[:, 0::2], x[:, 1::2]. The new even numbers are even * cos - odd * sin, the new odd ones "
        "even * sin + odd * cos.",
        "To put the pairs back in their places: torch.stack((new_even, new_odd), dim=-1).flatten(1), and then .to(x.dtype).",
    ],
)


@rotate.reference
def _(x, positions, theta):
    T, D = x.shape
    speeds = theta ** (-torch.arange(0, D, 2) / D)
    angle = positions[:, None] * speeds
    cos, sin = angle.cos(), angle.sin()
    even, odd = x[:, 0::2].float(), x[:, 1::2].float()
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(1).to(x.dtype)


@rotate.right
def _(x, positions, theta):
    T, D = x.shape
    out = torch.zeros_like(x)
    for row in range(T):
        for j in range(D // 2):
            angle = positions[row].item() * theta ** (-2 * j / D)
            a, b = x[row, 2 * j].item(), x[row, 2 * j + 1].item()
            out[row, 2 * j] = a * math.cos(angle) - b * math.sin(angle)
            out[row, 2 * j + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


@rotate.right
def _(x, positions, theta):
    T, D = x.shape
    angle = torch.outer(positions.float(), 1.0 / theta ** (torch.arange(0, D, 2).float() / D))
    turn = torch.polar(torch.ones_like(angle), angle)
    pairs = torch.view_as_complex(x.float().reshape(T, D // 2, 2).contiguous())
    return torch.view_as_real(pairs * turn).reshape(T, D).type_as(x)


@rotate.right
def _(x, positions, theta):
    T, D = x.shape
    angle = torch.einsum("t,j->tj", positions.double(), theta ** (-2 * torch.arange(D // 2).double() / D))
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), -2)
    pairs = x.double().unflatten(1, (-1, 2))
    return torch.einsum("tjab,tjb->tja", turn, pairs).reshape(T, D).to(x.dtype)


@rotate.right
def _(x, positions, theta):
    D = x.shape[1]
    exponents = torch.arange(D) // 2 * 2 / D
    angle = positions.unsqueeze(1) / theta**exponents
    wide = x.float()
    other = torch.stack((-wide[:, 1::2], wide[:, ::2]), dim=2).reshape(wide.shape)
    return (wide * angle.cos() + other * angle.sin()).to(x.dtype)


@rotate.mistake("The turn goes the wrong way round: the new even number is even * cos - odd * sin, with the minus there.")
def _(x, positions, theta):
    angle = positions[:, None] * theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos + odd * sin, odd * cos - even * sin), -1).flatten(1).to(x.dtype)


@rotate.mistake("It pairs number j with j + D/2 (Hugging Face's layout). Here the pairs are neighbours: (0, 1), (2, 3), ...")
def _(x, positions, theta):
    angle = positions[:, None] * theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])
    cos, sin = angle.cos(), angle.sin()
    first, second = x.chunk(2, dim=1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=1).to(x.dtype)


@rotate.mistake("The pairs are turned rightly but not put back in their places: all even numbers come first, then all odd ones. "
                "torch.stack(..., dim=-1).flatten(1) brings neighbours together again.")
def _(x, positions, theta):
    angle = positions[:, None] * theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.cat((even * cos - odd * sin, even * sin + odd * cos), dim=1).to(x.dtype)


@rotate.mistake("The angle comes from the row number. Row 0 need not be position 0: use the positions that are given.")
def _(x, positions, theta):
    T, D = x.shape
    angle = torch.arange(T)[:, None] * theta ** (-torch.arange(0, D, 2) / D)
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1).to(x.dtype)


@rotate.mistake("Every position is one too high. The first position is 0, and it is not turned at all.")
def _(x, positions, theta):
    angle = (positions[:, None] + 1) * theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1).to(x.dtype)


@rotate.mistake("The hands slow down only half as fast as they should: the exponent is -2j/D, and here it is -j/D.")
def _(x, positions, theta):
    D = x.shape[1]
    angle = positions[:, None] * theta ** (-torch.arange(D // 2) / D)
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1).to(x.dtype)


@rotate.mistake("The 2 of -2j/D is there twice: torch.arange(0, D, 2) already holds 0, 2, 4, ...")
def _(x, positions, theta):
    D = x.shape[1]
    angle = positions[:, None] * theta ** (-2 * torch.arange(0, D, 2) / D)
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1).to(x.dtype)


@rotate.mistake("The exponent has lost its minus: the hands must get slower from pair to pair, not faster.")
def _(x, positions, theta):
    D = x.shape[1]
    angle = positions[:, None] * theta ** (torch.arange(0, D, 2) / D)
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1).to(x.dtype)


@rotate.mistake("The speeds are in the wrong order: pair 0 is the fastest hand, 1 radian a step.")
def _(x, positions, theta):
    D = x.shape[1]
    angle = positions[:, None] * (theta ** (-torch.arange(0, D, 2) / D)).flip(0)
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1).to(x.dtype)


@rotate.mistake("The angle is taken for degrees. It is in radians already, as cos() and sin() want it.")
def _(x, positions, theta):
    angle = torch.deg2rad(positions[:, None] * theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1]))
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1).to(x.dtype)


@rotate.mistake("Cosine and sine have changed places.")
def _(x, positions, theta):
    angle = positions[:, None] * theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])
    cos, sin, even, odd = angle.sin(), angle.cos(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1).to(x.dtype)


@rotate.mistake("All pairs turn at the same speed. Each has its own: theta to the power of -2j/D.")
def _(x, positions, theta):
    angle = positions[:, None].float()
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1).to(x.dtype)


@rotate.mistake("theta is not looked at: 10,000 is Mistral's first one, but here it is an argument.")
def _(x, positions, theta):
    angle = positions[:, None] * 10_000 ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1).to(x.dtype)


@rotate.mistake("Sines and cosines are added to x, as the first transformers did. Here nothing is added: each pair is turned.")
def _(x, positions, theta):
    angle = positions[:, None] * theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])
    return (x + torch.stack((angle.sin(), angle.cos()), -1).flatten(1)).to(x.dtype)


@rotate.mistake("x is only multiplied by the cosine: it gets shorter. A turn also needs the pair's other number, times the sine.")
def _(x, positions, theta):
    angle = positions[:, None] * theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])
    return (x * angle.cos().repeat_interleave(2, dim=1)).to(x.dtype)


@rotate.mistake("The second number of a pair is made from the first after that was turned. Keep the old one until both are done.")
def _(x, positions, theta):
    angle = positions[:, None] * theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])
    out = x.float().clone()
    out[:, 0::2] = out[:, 0::2] * angle.cos() - out[:, 1::2] * angle.sin()
    out[:, 1::2] = out[:, 0::2] * angle.sin() + out[:, 1::2] * angle.cos()
    return out.to(x.dtype)


@rotate.mistake("It writes into x itself. Make a new tensor: the caller still needs the old one.")
def _(x, positions, theta):
    angle = positions[:, None] * theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])
    even, odd = x[:, 0::2].clone(), x[:, 1::2].clone()
    x[:, 0::2] = even * angle.cos() - odd * angle.sin()
    x[:, 1::2] = even * angle.sin() + odd * angle.cos()
    return x


@rotate.mistake("The numbers are right, but they come back as float32. End with .to(x.dtype).")
def _(x, positions, theta):
    angle = positions[:, None] * theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1)


@rotate.mistake("The angles are calculated in x's dtype. In bfloat16 the positions 300 and 301 are one number: stay in float32.")
def _(x, positions, theta):
    speeds = (theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])).to(x.dtype)
    angle = positions.to(x.dtype)[:, None] * speeds
    cos, sin, even, odd = angle.cos(), angle.sin(), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1)


@rotate.mistake("Cosine and sine are rounded to x's dtype before they are used. Work in float32 and round once, at the end.")
def _(x, positions, theta):
    angle = positions[:, None] * theta ** (-torch.arange(0, x.shape[1], 2) / x.shape[1])
    cos, sin, even, odd = angle.cos().to(x.dtype), angle.sin().to(x.dtype), x[:, 0::2], x[:, 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(1)


@rotate.mistake("Nothing is turned: x comes back as it was.")
def _(x, positions, theta):
    return x.clone()


# --- the rows of the other layout -----------------------------------------------------------------------------------------


def _weights():
    """(w, n_heads) with n_heads, D and dim all different. At D = 4 the permutation is its own inverse; later it is not."""
    g = torch.Generator().manual_seed(3)
    small = torch.arange(4.0)[:, None]
    sizes = ((2, 8, 3), (3, 6, 5), (1, 12, 7), (4, 10, 2))  # n_heads, D, dim
    drawn = [(torch.randn(n_heads * D, dim, generator=g), n_heads) for n_heads, D, dim in sizes]
    return [(small, 1), *drawn, (torch.randn(5 * 12, 4, generator=g).bfloat16(), 5)]


to_half_split = Exercise(
    "to_half_split",
    cases=_weights,
    hints=[
        "One head first: its rows 0, 2, 4, ... come first, then its rows 1, 3, 5, ...",
        "D = len(w) // n_heads. Head h owns the rows h*D to (h+1)*D. Do the same inside each head, heads in order.",
        "w.view(n_heads, D // 2, 2, -1) has the axes head, pair, first or second of the pair, column. Which two change places?",
    ],
)


@to_half_split.reference
def _(w, n_heads):
    D = len(w) // n_heads
    by_pair = w.view(n_heads, D // 2, 2, -1)
    return by_pair.transpose(1, 2).reshape(w.shape)


@to_half_split.right
def _(w, n_heads):
    D = len(w) // n_heads
    rows = []
    for h in range(n_heads):
        head = w[h * D : (h + 1) * D]
        rows += [head[0::2], head[1::2]]
    return torch.cat(rows)


@to_half_split.right
def _(w, n_heads):
    D = w.shape[0] // n_heads
    order = [h * D + r for h in range(n_heads) for r in (*range(0, D, 2), *range(1, D, 2))]
    return w[order]


@to_half_split.right
def _(w, n_heads):
    D = w.shape[0] // n_heads
    swap = torch.zeros(D, D, dtype=w.dtype)
    for j in range(D // 2):
        swap[j, 2 * j] = swap[j + D // 2, 2 * j + 1] = 1
    return torch.einsum("ab,hbc->hac", swap, w.reshape(n_heads, D, -1)).flatten(0, 1)


@to_half_split.right
def _(w, n_heads):
    out = torch.empty_like(w)
    D = len(w) // n_heads
    for row in range(len(w)):
        head, at = divmod(row, D)
        out[head * D + at // 2 + (at % 2) * (D // 2)] = w[row]
    return out


@to_half_split.mistake("Nothing has moved: the rows are still in pairs of neighbours.")
def _(w, n_heads):
    return w.clone()


@to_half_split.mistake("This is the way back, from half-split to neighbours. For D = 4 both are the same, for D = 8 no longer.")
def _(w, n_heads):
    D = len(w) // n_heads
    return w.view(n_heads, 2, D // 2, -1).transpose(1, 2).reshape(w.shape)


@to_half_split.mistake("The whole matrix is treated as one head, so rows wander between heads. Reorder inside each head.")
def _(w, n_heads):
    return torch.cat((w[0::2], w[1::2]))


@to_half_split.mistake("The columns are reordered. A row of w makes one number of q, so it is the rows that must move.")
def _(w, n_heads):
    return torch.cat((w[:, 0::2], w[:, 1::2]), dim=1)


@to_half_split.mistake("The second numbers of the pairs come first. The first half holds rows 0, 2, 4, ...")
def _(w, n_heads):
    D = len(w) // n_heads
    return torch.cat([w[h * D : (h + 1) * D][start::2] for h in range(n_heads) for start in (1, 0)])


@to_half_split.mistake("n_heads is taken for the size of a head. A head has D = len(w) // n_heads rows.")
def _(w, n_heads):
    D = n_heads
    parts = [w[start : start + D] for start in range(0, len(w), D)]
    return torch.cat([torch.cat((part[0::2], part[1::2])) for part in parts])


@to_half_split.mistake("The rows of a pair have changed places and a sign. That is part of a turn; here only the order changes.")
def _(w, n_heads):
    return torch.stack((-w[1::2], w[0::2]), dim=1).reshape(w.shape)


@to_half_split.mistake("Heads have changed places with pairs. Leave the heads' axis where it is, and transpose the two after it.")
def _(w, n_heads):
    D = len(w) // n_heads
    return w.view(n_heads, D // 2, 2, -1).transpose(0, 1).reshape(w.shape)


@to_half_split.mistake("The rows are right, but still cut into heads: reshape to the shape of w at the end.")
def _(w, n_heads):
    D = len(w) // n_heads
    return w.view(n_heads, D // 2, 2, -1).transpose(1, 2).reshape(n_heads, D, -1)


@to_half_split.mistake("It writes into w itself. Make a new tensor: whoever called still needs the old one.")
def _(w, n_heads):
    D = len(w) // n_heads
    for h in range(n_heads):
        head = w[h * D : (h + 1) * D].clone()
        w[h * D : (h + 1) * D] = torch.cat((head[0::2], head[1::2]))
    return w
