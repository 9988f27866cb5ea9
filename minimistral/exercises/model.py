"""Chapter 07: RMSNorm, SwiGLU, a model's parameters from its config, and one whole layer."""

import copy
import math
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from minimistral import rope
from minimistral.attention import attend
from minimistral.config import MistralConfig
from minimistral.exercises.frame import Exercise

#: a small random Mistral that transformers made and saved, and the logits that it gave (tests/test_whole_model.py makes them)
FROM_TRANSFORMERS = Path(__file__).parent / "data" / "from_transformers"

# --- RMSNorm --------------------------------------------------------------------------------------------------------------


def norm_draws():
    """(x, weight, eps): four numbers by hand; eps large, numbers tiny and zero; then bfloat16, and float16 with large numbers."""
    g = torch.Generator().manual_seed(7)

    def draw(*shape, size=1.0, dtype=torch.float32):
        x = size * torch.randn(*shape, generator=g)
        return x.to(dtype), (1 + 0.5 * torch.randn(shape[-1], generator=g)).to(dtype)

    small, small_weight = draw(2, 3, 5, size=2e-3)
    small[1, 1] = 0
    return [
        (torch.tensor([1.0, -1.0, 7.0, 7.0]), torch.ones(4), 1e-5),
        (*draw(2, 3), 0.5),
        (small, small_weight, 1e-5),
        (*draw(3, 7, size=40.0), 1e-6),
        (*draw(5, 24, dtype=torch.bfloat16), 1e-5),
        (*draw(2, 9, size=300.0, dtype=torch.float16), 1e-5),
    ]


rms_norm = Exercise(
    "rms_norm",
    cases=norm_draws,
    forbid=("rms_norm",),
    hints=[
        "Square, average over the last dimension, add eps, take the root. Then divide. Keep the dimension when you average: keepdim=True.",
        "First line: wide = x.float(). Everything up to and with the division happens in wide.",
        "Last line: cast back with .to(x.dtype), and only then times weight.",
    ],
)


@rms_norm.reference
def _(x, weight, eps):
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight


@rms_norm.right
def _(x, weight, eps):
    wide = x.to(torch.float32)
    rms = torch.sqrt((wide * wide).mean(dim=-1, keepdim=True) + eps)
    return weight * (wide / rms).type_as(x)


@rms_norm.right
def _(x, weight, eps):
    out = torch.empty_like(x)
    for at in product(*map(range, x.shape[:-1])):
        numbers = x[at].tolist()
        root = math.sqrt(sum(n * n for n in numbers) / len(numbers) + eps)
        out[at] = torch.tensor([n / root for n in numbers]).to(x.dtype) * weight
    return out


@rms_norm.right
def _(x, weight, eps):
    exact = x.double()
    length = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
    return (exact / (length**2 / x.shape[-1] + eps) ** 0.5).to(x.dtype).mul(weight)


@rms_norm.right
def _(x, weight, eps):
    wide = x.float()
    power = torch.einsum("...d,...d->...", wide, wide) / x.shape[-1]
    return (wide / (power + eps).sqrt()[..., None]).to(x.dtype) * weight


@rms_norm.mistake("Everything is computed in x's own dtype. In bfloat16 the sum of squares is rough, and in float16 the square of 300 is infinite: "
                  "begin with x.float().")
def _(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


@rms_norm.mistake("Only the average is wide: the squares are still taken in x's own dtype. Square x.float(), not x.")
def _(x, weight, eps):
    wide = x.pow(2).float().mean(-1, keepdim=True)
    return (x.float() * torch.rsqrt(wide + eps)).to(x.dtype) * weight


NARROW = "The division happens in x's own dtype. Divide the wide numbers, then cast back once."


@rms_norm.mistake(NARROW)
def _(x, weight, eps):
    rms = torch.sqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
    return x / rms.to(x.dtype) * weight


@rms_norm.mistake(NARROW)
def _(x, weight, eps):
    scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps).to(x.dtype)
    return x * scale * weight


@rms_norm.mistake("The weight is multiplied before the cast. Cast back to x's dtype first, then times the weight: the order decides how "
                  "the result is rounded.")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


@rms_norm.mistake("It is never cast back: the result must have x's dtype. Cast before you multiply with the weight.")
def _(x, weight, eps):
    wide = x.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight


@rms_norm.mistake("The weight is missing: after the division each coordinate is multiplied with its own weight.")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


@rms_norm.mistake("eps is missing. Added to the mean of the squares, it also keeps a vector of zeros from being divided by zero.")
def _(x, weight, eps):
    wide = x.float()
    return (wide / wide.pow(2).mean(-1, keepdim=True).sqrt()).to(x.dtype) * weight


@rms_norm.mistake("eps stands outside the root. It is added to the average of the squares, under the root.")
def _(x, weight, eps):
    wide = x.float()
    return (wide / (wide.pow(2).mean(-1, keepdim=True).sqrt() + eps)).to(x.dtype) * weight


@rms_norm.mistake("eps is added to the sum of the squares. Average first, then add eps.")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt((wide.pow(2).sum(-1, keepdim=True) + eps) / x.shape[-1])).to(x.dtype) * weight


@rms_norm.mistake("The squares are added up, not averaged: this makes the length 1. The *mean* of the squares should become 1.")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).sum(-1, keepdim=True) + eps)).to(x.dtype) * weight


@rms_norm.mistake("The root is missing: it is divided by the mean square itself.")
def _(x, weight, eps):
    wide = x.float()
    return (wide / (wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


@rms_norm.mistake("The mean is taken off first: that is LayerNorm's way. RMSNorm leaves the numbers where they are and only scales them.")
def _(x, weight, eps):
    wide = x.float()
    wide = wide - wide.mean(-1, keepdim=True)
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


@rms_norm.mistake("It is divided by the standard deviation, which measures from the mean. RMSNorm measures from zero.")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.var(-1, keepdim=True, unbiased=False) + eps)).to(x.dtype) * weight


@rms_norm.mistake("This is the mean of the absolute values. Square first, take the root at the end: the root of the mean of the squares.")
def _(x, weight, eps):
    wide = x.float()
    return (wide / (wide.abs().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


@rms_norm.mistake("One average over everything. Each vector has its own: mean(-1, keepdim=True).")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean() + eps)).to(x.dtype) * weight


@rms_norm.mistake("The average runs over the first dimension. It should run over the last: the numbers of one vector.")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(0, keepdim=True) + eps)).to(x.dtype) * weight


@rms_norm.mistake("The averages have lost their dimension and do not fit to x any more: mean(-1, keepdim=True).")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1) + eps)).to(x.dtype) * weight


@rms_norm.mistake("1 + weight is another family's convention (Gemma's). Here the weight is the factor itself.")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * (1 + weight)


@rms_norm.mistake("The weight is added. It is a factor, one for each coordinate.")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) + weight


@rms_norm.mistake("The weight is multiplied before the average is taken: it then counts in the length as well. Scale first, weigh last.")
def _(x, weight, eps):
    wide = x.float() * weight.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


@rms_norm.mistake("The numbers of x are changed in place. x.float() of a float32 tensor is x itself, no copy: *= and pow_ on it write into x. "
                  "Write wide = wide * ...")
def _(x, weight, eps):
    wide = x.float()
    wide *= torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return wide.to(x.dtype) * weight


@rms_norm.mistake("eps is used as a floor: the mean of the squares may not fall below it. It is added to the mean, always.")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True).clamp(min=eps))).to(x.dtype) * weight


@rms_norm.mistake("eps is missing. F.normalize, and every guard against zero alone, leaves it out for all other vectors.")
def _(x, weight, eps):
    return (F.normalize(x.float(), dim=-1) * x.shape[-1] ** 0.5).to(x.dtype) * weight


@rms_norm.mistake("weight.float() makes the result wide again. Times weight as it is: both are in x's dtype then.")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight.float()


@rms_norm.mistake("It is divided by the standard deviation, and var() divides by n - 1 besides. RMSNorm takes the mean of the squares, from zero.")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.var(-1, keepdim=True) + eps)).to(x.dtype) * weight


@rms_norm.mistake("eps is added after rsqrt. It is added to the mean of the squares, before the root is taken.")
def _(x, weight, eps):
    wide = x.float()
    return (wide * (torch.rsqrt(wide.pow(2).mean(-1, keepdim=True)) + eps)).to(x.dtype) * weight


@rms_norm.mistake("It is always cast to bfloat16. Cast back to what x was: .to(x.dtype).")
def _(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).bfloat16() * weight


# --- SwiGLU ---------------------------------------------------------------------------------------------------------------


def gate_draws():
    """(x, w1, w2, w3) of several sizes; the first is one number wide, so that it can be worked out by hand."""
    g = torch.Generator().manual_seed(7)
    one = (torch.tensor([[1.0]]), torch.tensor([[1.0], [-2.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0], [1.0]]))
    drawn = []
    for leading, dim, hidden in (((4,), 3, 5), ((2, 5), 4, 7), ((1, 3), 8, 6), ((6,), 12, 9)):
        w1, w3 = torch.randn(2, hidden, dim, generator=g)
        drawn.append((torch.randn(*leading, dim, generator=g), w1, torch.randn(dim, hidden, generator=g), w3))
    return [one, *drawn]


swiglu = Exercise(
    "swiglu",
    cases=gate_draws,
    hints=[
        "A weight is stored as (out, in), so a vector passes it as x @ w.T. From inside out: w1 x first.",
        "gate = x @ w1.T, other = x @ w3.T, both (..., hidden). silu(gate) * other, number by number.",
        "silu(z) is z * torch.sigmoid(z), or F.silu(z). And then @ w2.T brings it back to dim.",
    ],
)


@swiglu.reference
def _(x, w1, w2, w3):
    return (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T


@swiglu.right
def _(x, w1, w2, w3):
    gate = F.linear(x, w1)
    return F.linear(gate * torch.sigmoid(gate) * F.linear(x, w3), w2)


@swiglu.right
def _(x, w1, w2, w3):
    rows = []
    for one in x.reshape(-1, x.shape[-1]):
        gate = w1 @ one
        rows.append(w2 @ (gate / (1 + torch.exp(-gate)) * (w3 @ one)))
    return torch.stack(rows).reshape(x.shape)


@swiglu.right
def _(x, w1, w2, w3):
    gate, other = torch.einsum("...d,hd->...h", x, torch.cat((w1, w3))).chunk(2, dim=-1)
    return torch.einsum("...h,dh->...d", nn.SiLU()(gate) * other, w2)


@swiglu.right
def _(x, w1, w2, w3):
    z = torch.matmul(x, w1.mT)
    return torch.matmul(torch.special.expit(z).mul(z).mul(torch.matmul(x, w3.mT)), w2.mT)


SHAPES = "The weights are stored as (out, in), so x passes one as x @ w.T. And w1 and w3 lead up to the hidden size, w2 leads back."


@swiglu.mistake("The silu is on w3. The gate is w1: silu(w1 x) * w3 x.")
def _(x, w1, w2, w3):
    return (x @ w1.T * F.silu(x @ w3.T)) @ w2.T


@swiglu.mistake("Both have a silu. Only the gate has one, w1 x; what it lets through, w3 x, comes as it is.")
def _(x, w1, w2, w3):
    return (F.silu(x @ w1.T) * F.silu(x @ w3.T)) @ w2.T


@swiglu.mistake("This is a sigmoid alone. silu(z) is z * sigmoid(z).")
def _(x, w1, w2, w3):
    return (torch.sigmoid(x @ w1.T) * (x @ w3.T)) @ w2.T


@swiglu.mistake("The two are added. A gate multiplies: silu(w1 x) * w3 x, number by number.")
def _(x, w1, w2, w3):
    return (F.silu(x @ w1.T) + x @ w3.T) @ w2.T


@swiglu.mistake("This is relu, which shuts hard at zero. silu(z) is z * sigmoid(z).")
def _(x, w1, w2, w3):
    return (torch.relu(x @ w1.T) * (x @ w3.T)) @ w2.T


@swiglu.mistake("This is gelu, another smooth gate (it would be a GeGLU). Mistral uses silu(z) = z * sigmoid(z).")
def _(x, w1, w2, w3):
    return (F.gelu(x @ w1.T) * (x @ w3.T)) @ w2.T


@swiglu.mistake("There is no activation at all. Without a bend between them, products of matrices stay simple: silu belongs on w1 x.")
def _(x, w1, w2, w3):
    return (x @ w1.T * (x @ w3.T)) @ w2.T


@swiglu.mistake("The silu is taken of the product. It belongs on the gate alone, before the two are multiplied.")
def _(x, w1, w2, w3):
    return F.silu(x @ w1.T * (x @ w3.T)) @ w2.T


@swiglu.mistake("w3 is not used. That is the feed-forward without a gate, as older models have it.")
def _(x, w1, w2, w3):
    return F.silu(x @ w1.T) @ w2.T


@swiglu.mistake("w1 and w3 have both been replaced by one of them: w1 is used twice.")
def _(x, w1, w2, w3):
    return (F.silu(x @ w1.T) * (x @ w1.T)) @ w2.T


@swiglu.mistake("x is added to the result. That is the layer's business, not this function's.")
def _(x, w1, w2, w3):
    return x + (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T


@swiglu.mistake("z * sigmoid(-z), or a minus too many in the exponent: silu(z) is z / (1 + exp(-z)).")
def _(x, w1, w2, w3):
    gate = x @ w1.T
    return (gate / (1 + torch.exp(gate)) * (x @ w3.T)) @ w2.T


@swiglu.mistake(SHAPES)
def _(x, w1, w2, w3):
    return (F.silu(x @ w1) * (x @ w3)) @ w2


@swiglu.mistake(SHAPES)
def _(x, w1, w2, w3):
    return (F.silu(x @ w1.T) * (x @ w2.T)) @ w3.T


@swiglu.mistake("It stays at the hidden size: w2 brings it back to dim.")
def _(x, w1, w2, w3):
    return F.silu(x @ w1.T) * (x @ w3.T)


@swiglu.mistake("A softmax makes the gates share one sum. Each gate stands for itself: silu(z) = z * sigmoid(z).")
def _(x, w1, w2, w3):
    return ((x @ w1.T).softmax(-1) * (x @ w3.T)) @ w2.T


ON_X = "The silu is taken of x, before w1. It belongs on what w1 makes of x: silu(w1 x)."


@swiglu.mistake(ON_X)
def _(x, w1, w2, w3):
    return (F.silu(x) @ w1.T * (x @ w3.T)) @ w2.T


@swiglu.mistake(ON_X)
def _(x, w1, w2, w3):
    x = F.silu(x)
    return (x @ w1.T * (x @ w3.T)) @ w2.T


@swiglu.mistake("The silu comes after w2. It belongs on the gate, w1 x, in the hidden layer: w2(silu(w1 x) * w3 x).")
def _(x, w1, w2, w3):
    return F.silu((x @ w1.T * (x @ w3.T)) @ w2.T)


@swiglu.mistake("The sigmoid is taken of w3 x, but z of w1 x. silu takes the same z twice: silu(z) is z * sigmoid(z), with z = w1 x; then times w3 x.")
def _(x, w1, w2, w3):
    return (x @ w1.T * torch.sigmoid(x @ w3.T)) @ w2.T


# --- parameters from a config ---------------------------------------------------------------------------------------------


def size_draws():
    """(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size), small ones first; heads do not add up to dim."""
    return [(3, 1, 8, 2, 6, 5, 7), (8, 3, 6, 2, 4, 10, 20), (10, 4, 5, 1, 6, 14, 9), (4096, 32, 32, 8, 128, 14_336, 32_000)]


n_parameters = Exercise(
    "n_parameters",
    cases=size_draws,
    tolerance=0,
    hints=[
        "Begin with one layer: four matrices of attention, three of the feed-forward, two norms. A matrix from n to m numbers has n * m parameters.",
        "wq and wo: dim * n_heads * head_dim each. wk and wv: dim * n_kv_heads * head_dim each. w1, w2, w3: dim * hidden_dim each.",
        "Then n_layers times that, the last norm, and two tables of vocab_size * dim: one for the ids that come in, one for the logits.",
    ],
)


@n_parameters.reference
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    attention = 2 * dim * n_heads * head_dim + 2 * dim * n_kv_heads * head_dim
    feed_forward = 3 * dim * hidden_dim
    layer = attention + feed_forward + 2 * dim
    return 2 * vocab_size * dim + n_layers * layer + dim


@n_parameters.right
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    q, kv = n_heads * head_dim, n_kv_heads * head_dim
    layer = [(q, dim), (kv, dim), (kv, dim), (dim, q), (hidden_dim, dim), (dim, hidden_dim), (hidden_dim, dim), (dim,), (dim,)]
    shapes = [(vocab_size, dim), *(layer * n_layers), (dim,), (vocab_size, dim)]
    return sum(math.prod(shape) for shape in shapes)


@n_parameters.right
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    return dim * (2 * vocab_size + 1 + n_layers * (2 * head_dim * (n_heads + n_kv_heads) + 3 * hidden_dim + 2))


@n_parameters.right
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    q, kv = n_heads * head_dim, n_kv_heads * head_dim
    with torch.device("meta"):  # real modules, without memory
        matrices = [nn.Linear(dim, n, bias=False) for n in (q, kv, kv, hidden_dim, hidden_dim)]
        matrices += [nn.Linear(n, dim, bias=False) for n in (q, hidden_dim)]
    total = vocab_size * dim
    for _ in range(n_layers):
        for matrix in matrices:
            total += matrix.weight.numel()
        total += dim + dim
    total += dim
    total += dim * vocab_size
    return total


@n_parameters.mistake("One of the two tables is missing. There is one for the ids that come in, and another for the logits that go out.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * head_dim * (n_heads + n_kv_heads) + 3 * dim * hidden_dim + 2 * dim
    return vocab_size * dim + n_layers * layer + dim


@n_parameters.mistake("The two tables, for ids and for logits, are missing.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * head_dim * (n_heads + n_kv_heads) + 3 * dim * hidden_dim + 2 * dim
    return n_layers * layer + dim


@n_parameters.mistake("The last norm is missing, the one between the last layer and the output head.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * head_dim * (n_heads + n_kv_heads) + 3 * dim * hidden_dim + 2 * dim
    return 2 * vocab_size * dim + n_layers * layer


@n_parameters.mistake("The norms are missing: each has a weight for every coordinate. Two in a layer, one at the end.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * head_dim * (n_heads + n_kv_heads) + 3 * dim * hidden_dim
    return 2 * vocab_size * dim + n_layers * layer


@n_parameters.mistake("A layer has two norms, one before attention and one before the feed-forward.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * head_dim * (n_heads + n_kv_heads) + 3 * dim * hidden_dim + dim
    return 2 * vocab_size * dim + n_layers * layer + dim


@n_parameters.mistake("The norms of the layers are missing: two in each, dim numbers each.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * head_dim * (n_heads + n_kv_heads) + 3 * dim * hidden_dim
    return 2 * vocab_size * dim + n_layers * layer + dim


@n_parameters.mistake("wk and wv are counted with all query heads. They make n_kv_heads heads only; that is what grouping saves.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 4 * dim * head_dim * n_heads + 3 * dim * hidden_dim + 2 * dim
    return 2 * vocab_size * dim + n_layers * layer + dim


@n_parameters.mistake("wo is counted with the key heads. It takes the results of all n_heads query heads.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = dim * head_dim * (n_heads + 3 * n_kv_heads) + 3 * dim * hidden_dim + 2 * dim
    return 2 * vocab_size * dim + n_layers * layer + dim


@n_parameters.mistake("wo is missing, which takes the heads' results back to dim.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = dim * head_dim * (n_heads + 2 * n_kv_heads) + 3 * dim * hidden_dim + 2 * dim
    return 2 * vocab_size * dim + n_layers * layer + dim


@n_parameters.mistake("wk and wv are counted as one. They are two matrices, equal in shape: one makes the keys, one the values.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = dim * head_dim * (2 * n_heads + n_kv_heads) + 3 * dim * hidden_dim + 2 * dim
    return 2 * vocab_size * dim + n_layers * layer + dim


@n_parameters.mistake("wq and wo are counted as dim * dim. The heads need not add up to dim: use n_heads * head_dim.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * dim + 2 * dim * n_kv_heads * head_dim + 3 * dim * hidden_dim + 2 * dim
    return 2 * vocab_size * dim + n_layers * layer + dim


@n_parameters.mistake("The size of a head is given, head_dim. It need not be dim / n_heads.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * (dim // n_heads) * (n_heads + n_kv_heads) + 3 * dim * hidden_dim + 2 * dim
    return 2 * vocab_size * dim + n_layers * layer + dim


@n_parameters.mistake("wk and wv are counted with the group, n_heads / n_kv_heads. The number of key heads is n_kv_heads itself.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * head_dim * (n_heads + n_heads // n_kv_heads) + 3 * dim * hidden_dim + 2 * dim
    return 2 * vocab_size * dim + n_layers * layer + dim


@n_parameters.mistake("The feed-forward has three matrices here: w1, w2 and w3.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * head_dim * (n_heads + n_kv_heads) + 2 * dim * hidden_dim + 2 * dim
    return 2 * vocab_size * dim + n_layers * layer + dim


@n_parameters.mistake("This is attention alone. Each layer has a feed-forward too, with three matrices of dim * hidden_dim.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * head_dim * (n_heads + n_kv_heads) + 2 * dim
    return 2 * vocab_size * dim + n_layers * layer + dim


@n_parameters.mistake("This is the feed-forward alone. Each layer has attention too, with four matrices.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    return 2 * vocab_size * dim + n_layers * (3 * dim * hidden_dim + 2 * dim) + dim


@n_parameters.mistake("Only one layer is counted. There are n_layers of them, each with weights of its own.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * head_dim * (n_heads + n_kv_heads) + 3 * dim * hidden_dim + 2 * dim
    return 2 * vocab_size * dim + layer + dim


@n_parameters.mistake("The two tables are counted in every layer. They stand outside the stack, once each.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    layer = 2 * dim * head_dim * (n_heads + n_kv_heads) + 3 * dim * hidden_dim + 2 * dim
    return n_layers * (layer + 2 * vocab_size * dim) + dim


@n_parameters.mistake("Biases are counted. Mistral's matrices have none.")
def _(dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size):
    q, kv = n_heads * head_dim, n_kv_heads * head_dim
    layer = 2 * dim * (q + kv) + 3 * dim * hidden_dim + 2 * dim + q + 2 * kv + dim + 2 * hidden_dim + dim
    return 2 * vocab_size * dim + n_layers * layer + dim


# --- one whole layer ------------------------------------------------------------------------------------------------------

NAMES = ("attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3")


class Layer:
    """The nine weights of one layer as attributes, in the shapes in which they are stored: w.attention_norm, w.wq, ..."""

    def __init__(self, **weights):
        for name in NAMES:
            setattr(self, name, weights[name])

    @classmethod
    def of(cls, block) -> "Layer":
        """Those of a layer of the library's model, such as model.layers[0]."""
        return cls(**{name.split(".")[-2]: weight.detach() for name, weight in block.named_parameters()})

    def __eq__(self, other):
        return all(torch.equal(getattr(self, name), getattr(other, name)) for name in NAMES)

    def __repr__(self):
        return "<nine weights>"

    __hash__ = None


class Config(MistralConfig):
    """A config that says in a complaint what a layer needs, and no more."""

    def __repr__(self):
        names = ("n_heads", "n_kv_heads", "head_dim", "norm_eps", "rope_theta", "sliding_window")
        return f"<{', '.join(f'{name} {value:g}' if (value := getattr(self, name)) else f'{name} None' for name in names)}>"


def layer_draws():
    """(x, w, config) of several sizes, one token first; longer than the window; an eps, a theta and head sizes of their own."""
    g = torch.Generator().manual_seed(8)
    cases = []
    for B, T, dim, H, Hkv, D, hidden, W, theta, eps in (
        (1, 1, 6, 2, 1, 4, 5, None, 1e4, 1e-5),
        (1, 5, 10, 4, 2, 6, 7, None, 1e4, 1e-5),
        (3, 9, 10, 6, 2, 4, 12, 4, 50.0, 0.2),
        (2, 12, 14, 6, 3, 8, 11, 5, 1e6, 1e-5),
    ):
        config = Config(
            dim=dim, n_layers=1, n_heads=H, n_kv_heads=Hkv, head_dim=D, hidden_dim=hidden, vocab_size=13,
            norm_eps=eps, rope_theta=theta, sliding_window=W,
        )  # fmt: skip
        shapes = {"attention_norm": (dim,), "wq": (H * D, dim), "wk": (Hkv * D, dim), "wv": (Hkv * D, dim), "wo": (dim, H * D),
                  "ffn_norm": (dim,), "w1": (hidden, dim), "w2": (dim, hidden), "w3": (hidden, dim)}  # fmt: skip
        weights = {name: 0.5 * torch.randn(*shape, generator=g) for name, shape in shapes.items()}
        cases.append((torch.randn(B, T, dim, generator=g), Layer(**weights), config))
    return cases


block = Exercise(
    "block",
    cases=layer_draws,
    allowed=("minimistral.attention", "minimistral.rope", "minimistral.masks", "minimistral.config", "minimistral.window"),
    hints=[
        "Two lines decide everything: x = x + attention(norm(x)), and after it x = x + feed_forward(norm(x)). The second norm sees the new x.",
        "q = rms_norm(...) @ w.wq.T is (B, T, H * D). attend wants (B, H, T, D): q.unflatten(-1, (-1, D)).transpose(1, 2). The same for k and v.",
        "cos, sin = rope.angles(torch.arange(T), D, config.rope_theta); rope.rotate(q, cos, sin), the same for k, not for v.",
        "After attend: .transpose(1, 2).flatten(2) brings the heads of each token side by side again, then @ w.wo.T.",
    ],
)


@block.reference
def _(x, w, config):
    norm, feed_forward = rms_norm.answer, swiglu.answer  # those of this page
    turn = rope.angles(torch.arange(x.shape[1]), config.head_dim, config.rope_theta)

    def heads(flat):  # (B, T, heads * D) -> (B, heads, T, D)
        return flat.unflatten(-1, (-1, config.head_dim)).transpose(1, 2)

    normed = norm(x, w.attention_norm, config.norm_eps)
    q, k, v = heads(normed @ w.wq.T), heads(normed @ w.wk.T), heads(normed @ w.wv.T)
    mixed = attend(rope.rotate(q, *turn), rope.rotate(k, *turn), v, config.sliding_window)
    x = x + mixed.transpose(1, 2).flatten(2) @ w.wo.T
    return x + feed_forward(norm(x, w.ffn_norm, config.norm_eps), w.w1, w.w2, w.w3)


@block.right
def _(x, w, config):
    B, T, _ = x.shape
    H, Hkv, D = config.n_heads, config.n_kv_heads, config.head_dim
    n = F.rms_norm(x, x.shape[-1:], w.attention_norm, config.norm_eps)
    q = F.linear(n, w.wq).view(B, T, H, D).permute(0, 2, 1, 3)
    k = F.linear(n, w.wk).view(B, T, Hkv, D).permute(0, 2, 1, 3)
    v = F.linear(n, w.wv).view(B, T, Hkv, D).permute(0, 2, 1, 3)
    cos, sin = rope.angles(torch.arange(T) + 5, D, config.rope_theta)  # any start will do: only distances matter
    q, k = rope.rotate(q, cos, sin), rope.rotate(k, cos, sin)
    at = torch.arange(T)
    seen = (at <= at[:, None]) & (at > at[:, None] - (config.sliding_window or T))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
    h = x + F.linear(out.permute(0, 2, 1, 3).reshape(B, T, H * D), w.wo)
    n = F.rms_norm(h, h.shape[-1:], w.ffn_norm, config.norm_eps)
    return h + F.linear(F.silu(F.linear(n, w.w1)) * F.linear(n, w.w3), w.w2)


@block.right
def _(x, w, config):
    D, W = config.head_dim, config.sliding_window or x.shape[1]
    pairs = torch.arange(0, D, 2)
    rows = []
    for row in x:  # (T, dim): one sequence at a time, one token at a time
        normed = [t / (t.pow(2).mean() + config.norm_eps).sqrt() * w.attention_norm for t in row]
        keys, values, out = [], [], []
        for i, n in enumerate(normed):
            spin = torch.polar(torch.ones(D // 2), i * config.rope_theta ** (-pairs / D))
            q, k = (torch.view_as_real(torch.view_as_complex((m @ n).view(-1, D // 2, 2)) * spin).flatten(1) for m in (w.wq, w.wk))
            keys, values = [*keys, k][-W:], [*values, (w.wv @ n).view(-1, D)][-W:]
            K, V = (torch.stack(part).repeat_interleave(config.group, dim=1) for part in (keys, values))  # (S, H, D)
            weights = ((K * q).sum(-1) / D**0.5).softmax(0)  # (S, H)
            h = row[i] + w.wo @ (weights[..., None] * V).sum(0).flatten()
            n = h / (h.pow(2).mean() + config.norm_eps).sqrt() * w.ffn_norm
            gate = w.w1 @ n
            out.append(h + w.w2 @ (gate * gate.sigmoid() * (w.w3 @ n)))
        rows.append(torch.stack(out))
    return torch.stack(rows)


@block.right
def _(x, w, config):
    T, D, group = x.shape[1], config.head_dim, config.n_heads // config.n_kv_heads
    cos, sin = rope.angles(torch.arange(T), D, config.rope_theta)

    def norm(x, weight):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + config.norm_eps) * weight

    q, k, v = (torch.einsum("btd,hcd->bhtc", norm(x, w.attention_norm), m.unflatten(0, (-1, D))) for m in (w.wq, w.wk, w.wv))
    q, k = rope.rotate(q, cos, sin).unflatten(1, (-1, group)), rope.rotate(k, cos, sin)
    scores = torch.einsum("bngic,bnjc->bngij", q, k) / math.sqrt(D)
    distance = torch.arange(T)[:, None] - torch.arange(T)
    hidden = (distance < 0) | (distance >= (config.sliding_window or T))
    mixed = torch.einsum("bngij,bnjc->bngic", scores.masked_fill(hidden, -torch.inf).softmax(-1), v).flatten(1, 2)
    x = torch.einsum("bhtc,dhc->btd", mixed, w.wo.unflatten(1, (-1, D))) + x
    n = norm(x, w.ffn_norm)
    return (F.silu(n @ w.w1.mT) * (n @ w.w3.mT)) @ w.w2.mT + x


def assembled(x, w, config, turned="qk", theta=None, window="config", normed=None, swap=None, heads=None, back=None, repeat=None):
    """The right attention half with one part exchanged: what it adds to the stream. The mistakes below are made of it."""
    D, at = config.head_dim, torch.arange(x.shape[1])
    turn = rope.angles(at, D, theta or config.rope_theta)
    n = rms_norm.answer(x, w.attention_norm, config.norm_eps) if normed is None else normed
    heads = heads or (lambda flat: flat.unflatten(-1, (-1, D)).transpose(1, 2))
    parts = {"q": heads(n @ w.wq.T), "k": heads(n @ w.wk.T), "v": heads(n @ w.wv.T)}
    if swap:
        parts["k"], parts["v"] = parts["v"], parts["k"]
    parts |= {name: rope.rotate(parts[name], *turn) for name in turned}
    if repeat:
        parts |= {name: repeat(parts[name]) for name in "kv"}
    mixed = attend(*parts.values(), config.sliding_window if window == "config" else window)
    return (back(mixed) if back else mixed.transpose(1, 2).flatten(2)) @ w.wo.T


def thought(x, w, config):
    """The right second half: what it adds to the stream."""
    return swiglu.answer(rms_norm.answer(x, w.ffn_norm, config.norm_eps), w.w1, w.w2, w.w3)


@block.mistake("The feed-forward reads the stream as it was before attention. It should see what attention has added.")
def _(x, w, config):
    return x + assembled(x, w, config) + thought(x, w, config)


@block.mistake("Attention's result replaces the stream. It is added: x = x + attention(norm(x)).")
def _(x, w, config):
    x = assembled(x, w, config)
    return x + thought(x, w, config)


@block.mistake("The feed-forward's result replaces the stream. It is added: x = x + feed_forward(norm(x)).")
def _(x, w, config):
    x = x + assembled(x, w, config)
    return thought(x, w, config)


@block.mistake("Nothing is added to the stream: both halves replace it. Each adds its result.")
def _(x, w, config):
    return thought(assembled(x, w, config), w, config)


@block.mistake("The normed numbers are added to, and the stream itself is lost. The norm is only for what the halves read: x = x + attention(norm(x)).")
def _(x, w, config):
    n = rms_norm.answer(x, w.attention_norm, config.norm_eps)
    x = n + assembled(x, w, config)
    n = rms_norm.answer(x, w.ffn_norm, config.norm_eps)
    return n + swiglu.answer(n, w.w1, w.w2, w.w3)


@block.mistake("The norms come after the sums, as in the first transformers. Here they come before: attention and feed-forward read norm(x).")
def _(x, w, config):
    x = rms_norm.answer(x + assembled(x, w, config, normed=x), w.attention_norm, config.norm_eps)
    return rms_norm.answer(x + swiglu.answer(x, w.w1, w.w2, w.w3), w.ffn_norm, config.norm_eps)


@block.mistake("Attention reads the stream without a norm. It reads rms_norm(x, w.attention_norm, config.norm_eps).")
def _(x, w, config):
    x = x + assembled(x, w, config, normed=x)
    return x + thought(x, w, config)


@block.mistake("The feed-forward reads the stream without a norm. It reads rms_norm(x, w.ffn_norm, config.norm_eps).")
def _(x, w, config):
    x = x + assembled(x, w, config)
    return x + swiglu.answer(x, w.w1, w.w2, w.w3)


@block.mistake("Both norms use attention_norm. The second has its own weight, ffn_norm.")
def _(x, w, config):
    x = x + assembled(x, w, config)
    return x + swiglu.answer(rms_norm.answer(x, w.attention_norm, config.norm_eps), w.w1, w.w2, w.w3)


@block.mistake("The two norms have changed places: attention_norm comes before attention, ffn_norm before the feed-forward.")
def _(x, w, config):
    other = copy.copy(w)
    other.attention_norm, other.ffn_norm = w.ffn_norm, w.attention_norm
    x = x + assembled(x, other, config)
    return x + thought(x, other, config)


@block.mistake("The order is turned round: first attention, then the feed-forward.")
def _(x, w, config):
    x = x + thought(x, w, config)
    return x + assembled(x, w, config)


@block.mistake("This is attention's half. The feed-forward's half is missing.")
def _(x, w, config):
    return x + assembled(x, w, config)


@block.mistake("This is the feed-forward's half. Attention's half is missing.")
def _(x, w, config):
    return x + thought(x, w, config)


@block.mistake("Queries and keys are not turned: without RoPE nobody knows who stands where.")
def _(x, w, config):
    x = x + assembled(x, w, config, turned="")
    return x + thought(x, w, config)


@block.mistake("Only the queries are turned. The score knows the distance only if the keys are turned too.")
def _(x, w, config):
    x = x + assembled(x, w, config, turned="q")
    return x + thought(x, w, config)


@block.mistake("Only the keys are turned. The score knows the distance only if the queries are turned too.")
def _(x, w, config):
    x = x + assembled(x, w, config, turned="k")
    return x + thought(x, w, config)


@block.mistake("The values are turned as well. Only queries and keys are: position is for the scores, not for what is handed over.")
def _(x, w, config):
    x = x + assembled(x, w, config, turned="qkv")
    return x + thought(x, w, config)


@block.mistake("RoPE's theta is fixed at 10,000. It stands in the config: rope_theta.")
def _(x, w, config):
    x = x + assembled(x, w, config, theta=1e4)
    return x + thought(x, w, config)


@block.mistake("eps is fixed at 1e-5. It stands in the config: norm_eps.")
def _(x, w, config):
    x = x + assembled(x, w, config, normed=rms_norm.answer(x, w.attention_norm, 1e-5))
    return x + swiglu.answer(rms_norm.answer(x, w.ffn_norm, 1e-5), w.w1, w.w2, w.w3)


@block.mistake("The window is missing: attend(q, k, v, config.sliding_window).")
def _(x, w, config):
    x = x + assembled(x, w, config, window=None)
    return x + thought(x, w, config)


@block.mistake("The window is one too wide. W counts the token itself.")
def _(x, w, config):
    x = x + assembled(x, w, config, window=config.sliding_window and config.sliding_window + 1)
    return x + thought(x, w, config)


@block.mistake("Keys and values have changed places.")
def _(x, w, config):
    x = x + assembled(x, w, config, swap=True)
    return x + thought(x, w, config)


@block.mistake("The heads are cut the wrong way: view(B, heads, T, D) mixes tokens and heads. Cut the last dimension first, (B, T, heads, D), "
               "then swap dimensions 1 and 2.")
def _(x, w, config):
    B, T, _ = x.shape
    x = x + assembled(x, w, config, heads=lambda flat: flat.reshape(B, -1, T, config.head_dim))
    return x + thought(x, w, config)


@block.mistake("After attend the heads are joined without swapping dimensions 1 and 2 back: each token gets pieces of others.")
def _(x, w, config):
    B, T, _ = x.shape
    x = x + assembled(x, w, config, back=lambda mixed: mixed.reshape(B, T, -1))
    return x + thought(x, w, config)


@block.mistake("The heads are joined in the wrong order: all first numbers, then all second ones. Head by head is right: transpose(1, 2).flatten(2).")
def _(x, w, config):
    x = x + assembled(x, w, config, back=lambda mixed: mixed.permute(0, 2, 3, 1).flatten(2))
    return x + thought(x, w, config)


@block.mistake("The heads are cut the other way round: view(..., D, heads). The numbers of one head lie side by side: (..., heads, D).")
def _(x, w, config):
    x = x + assembled(x, w, config, heads=lambda flat: flat.unflatten(-1, (config.head_dim, -1)).permute(0, 3, 1, 2))
    return x + thought(x, w, config)


@block.mistake("The key heads are dealt out in turn (repeat). Neighbours share: attend does it by itself, or repeat_interleave.")
def _(x, w, config):
    x = x + assembled(x, w, config, repeat=lambda part: part.repeat(1, config.group, 1, 1))
    return x + thought(x, w, config)


@block.mistake("In the feed-forward w1 and w3 have changed places: the gate is w1.")
def _(x, w, config):
    x = x + assembled(x, w, config)
    return x + swiglu.answer(rms_norm.answer(x, w.ffn_norm, config.norm_eps), w.w3, w.w2, w.w1)


@block.mistake("x += ... changes the stream that it was given. Write x = x + ...")
def _(x, w, config):
    x += assembled(x, w, config)
    x += thought(x, w, config)
    return x


@block.mistake("The weights are stored as (out, in): normed @ w.wq.T.")
def _(x, w, config):
    turn = rope.angles(torch.arange(x.shape[1]), config.head_dim, config.rope_theta)
    n = rms_norm.answer(x, w.attention_norm, config.norm_eps)
    q, k, v = ((n @ m).unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for m in (w.wq, w.wk, w.wv))
    mixed = attend(rope.rotate(q, *turn), rope.rotate(k, *turn), v, config.sliding_window)
    x = x + mixed.transpose(1, 2).flatten(2) @ w.wo
    return x + thought(x, w, config)


@block.mistake("q and k are turned before heads and positions have changed places. rope.rotate wants the positions last but one: (B, heads, T, D).")
def _(x, w, config):
    turn = rope.angles(torch.arange(x.shape[1]), config.head_dim, config.rope_theta)
    n = rms_norm.answer(x, w.attention_norm, config.norm_eps)
    q, k, v = ((n @ m.T).unflatten(-1, (-1, config.head_dim)) for m in (w.wq, w.wk, w.wv))
    q, k, v = (part.transpose(1, 2) for part in (rope.rotate(q, *turn), rope.rotate(k, *turn), v))
    x = x + attend(q, k, v, config.sliding_window).transpose(1, 2).flatten(2) @ w.wo.T
    return x + thought(x, w, config)


@block.mistake("The heads are never cut apart: (B, T, H * D) goes to attention as one. attend wants (B, heads, T, D).")
def _(x, w, config):
    turn = rope.angles(torch.arange(x.shape[1]), config.head_dim, config.rope_theta)
    n = rms_norm.answer(x, w.attention_norm, config.norm_eps)
    q, k, v = n @ w.wq.T, n @ w.wk.T, n @ w.wv.T
    mixed = attend(rope.rotate(q, *turn), rope.rotate(k, *turn), v, config.sliding_window)
    return x + mixed @ w.wo.T + thought(x, w, config)


ADDED_TO_NORMED = "half adds its result to the normed numbers. It is added to the stream itself, x; the norm is only for what is read."


@block.mistake(f"The first {ADDED_TO_NORMED}")
def _(x, w, config):
    x = rms_norm.answer(x, w.attention_norm, config.norm_eps) + assembled(x, w, config)
    return x + thought(x, w, config)


@block.mistake(f"The second {ADDED_TO_NORMED}")
def _(x, w, config):
    x = x + assembled(x, w, config)
    return rms_norm.answer(x, w.ffn_norm, config.norm_eps) + thought(x, w, config)


@block.mistake("The second half adds to the x of the beginning, and attention's result is lost. Go on with the new x: x = x + attention(norm(x)) first.")
def _(x, w, config):
    return x + thought(x + assembled(x, w, config), w, config)


@block.mistake("The scores are scaled twice. attend divides by the root of head_dim by itself.")
def _(x, w, config):
    x = x + assembled(x, w, config, heads=lambda flat: flat.unflatten(-1, (-1, config.head_dim)).transpose(1, 2) / config.head_dim**0.25,
                      back=lambda mixed: mixed.transpose(1, 2).flatten(2) * config.head_dim**0.25)  # fmt: skip
    return x + thought(x, w, config)


@block.mistake("The window is one too narrow. W counts the token itself: hand over config.sliding_window as it is.")
def _(x, w, config):
    x = x + assembled(x, w, config, window=config.sliding_window and config.sliding_window - 1)
    return x + thought(x, w, config)


@block.mistake("Attention looks into the future, and past the window. attend hides both; a kernel of your own needs the mask.")
def _(x, w, config):
    turn = rope.angles(torch.arange(x.shape[1]), config.head_dim, config.rope_theta)
    n = rms_norm.answer(x, w.attention_norm, config.norm_eps)
    q, k, v = ((n @ m.T).unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for m in (w.wq, w.wk, w.wv))
    mixed = F.scaled_dot_product_attention(rope.rotate(q, *turn), rope.rotate(k, *turn), v, enable_gqa=True)
    x = x + mixed.transpose(1, 2).flatten(2) @ w.wo.T
    return x + thought(x, w, config)


@block.mistake("The norm is applied once more at the end. What a layer hands on is the stream as it is: the next layer norms for itself.")
def _(x, w, config):
    x = x + assembled(x, w, config)
    return rms_norm.answer(x + thought(x, w, config), w.ffn_norm, config.norm_eps)


@block.mistake("The norm before attention is applied twice. Once is enough: its weight would count twice.")
def _(x, w, config):
    normed = rms_norm.answer(x, w.attention_norm, config.norm_eps)
    x = x + assembled(x, w, config, normed=rms_norm.answer(normed, w.attention_norm, config.norm_eps))
    return x + thought(x, w, config)


@block.mistake("eps stands outside the root in these norms. Call rms_norm, or add eps to the mean of the squares.")
def _(x, w, config):
    def norm(x, weight):
        return x / (x.pow(2).mean(-1, keepdim=True).sqrt() + config.norm_eps) * weight

    x = x + assembled(x, w, config, normed=norm(x, w.attention_norm))
    return x + swiglu.answer(norm(x, w.ffn_norm), w.w1, w.w2, w.w3)


def by_halves(x, w, config, cut, D=None, key_heads=None, back=True):
    """A layer with view or unflatten, and with sizes of its own: for the mistakes below, which end in an error of PyTorch's."""
    H, Hkv, D = config.n_heads, key_heads or config.n_kv_heads, D or config.head_dim
    n = rms_norm.answer(x, w.attention_norm, config.norm_eps)
    q, k, v = (cut(n @ m.T, heads, D).transpose(1, 2) for m, heads in ((w.wq, H), (w.wk, Hkv), (w.wv, Hkv)))
    turn = rope.angles(torch.arange(x.shape[1]), D, config.rope_theta)
    mixed = attend(rope.rotate(q, *turn), rope.rotate(k, *turn), v, config.sliding_window).transpose(1, 2).flatten(2)
    x = x + (mixed @ w.wo.T if back else mixed)
    return x + thought(x, w, config)


def viewed(flat, heads, D):
    """(B, T, heads D) -> (B, T, heads, D); for the answers below."""
    return flat.view(*flat.shape[:2], heads, D)


def unflattened(flat, heads, D):
    """The same, in PyTorch's other words."""
    return flat.unflatten(-1, (heads, D))


KEY_HEADS = "k and v are cut into n_heads heads. wk and wv make n_kv_heads of them."


@block.mistake(KEY_HEADS)
def _(x, w, config):
    return by_halves(x, w, config, viewed, key_heads=config.n_heads)


@block.mistake(KEY_HEADS)
def _(x, w, config):
    return by_halves(x, w, config, unflattened, key_heads=config.n_heads)


HEAD_SIZE = "The size of a head is taken as dim / n_heads. It stands in the config, head_dim, and need not be that."


@block.mistake(HEAD_SIZE)
def _(x, w, config):
    return by_halves(x, w, config, viewed, D=config.dim // config.n_heads)


@block.mistake(HEAD_SIZE)
def _(x, w, config):
    return by_halves(x, w, config, unflattened, D=config.dim // config.n_heads)


@block.mistake(HEAD_SIZE)
def _(x, w, config):
    return by_halves(x, w, config, lambda flat, heads, D: flat.unflatten(-1, (-1, D)), D=config.dim // config.n_heads)


@block.mistake(HEAD_SIZE)
def _(x, w, config):
    turn = rope.angles(torch.arange(x.shape[1]), config.dim // config.n_heads, config.rope_theta)
    n = rms_norm.answer(x, w.attention_norm, config.norm_eps)
    heads = ((n @ m.T).unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for m in (w.wq, w.wk, w.wv))
    return x + attend(*(rope.rotate(part, *turn) for part in heads)).transpose(1, 2).flatten(2) @ w.wo.T


WITHOUT_WO = "wo is missing: the heads' results, side by side, go through w.wo.T before they are added to the stream."


@block.mistake(WITHOUT_WO)
def _(x, w, config):
    return by_halves(x, w, config, unflattened, back=False)


@block.mistake(WITHOUT_WO)
def _(x, w, config):
    return torch.zeros(*x.shape[:2], config.n_heads * config.head_dim) + x
