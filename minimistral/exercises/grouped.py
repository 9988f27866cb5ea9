"""Chapter 03: the bytes of a cache by hand, grouped-query attention, and one decode step mended."""

import math

import torch
import torch.nn.functional as F

from minimistral.exercises.frame import Exercise

# --- by hand --------------------------------------------------------------------------------------------------------------

gib_at_32k = Exercise(
    "gib_at_32k",
    tolerance=5e-3,
    hints=[
        "One token stores, in each of 32 layers, for each of 32 heads: a key of 128 numbers and a value of 128 numbers.",
        "Every factor is a power of two, so add exponents: 2 (key and value) is 1, 32 layers 5, 32 heads 5, 128 numbers 7, 2 bytes 1.",
        "That is 2 to the power of 19 for one token, and 32,768 tokens are 2 to the power of 15. A GiB is 2 to the power of 30.",
    ],
)


@gib_at_32k.reference
def _():
    return 2 * 32 * 32 * 128 * 2 * 32_768 / 2**30


@gib_at_32k.right
def _():
    return 16


@gib_at_32k.right
def _():
    return 16.0


@gib_at_32k.mistake("One of the two twos is missing: there are keys *and* values, and each of their numbers takes *two* bytes.")
def _():
    return 8


@gib_at_32k.mistake("Too little by four. Either both twos are missing (key and value; two bytes a number), or you took 8 heads, and "
                    "here all 32 have keys of their own.")
def _():
    return 4


@gib_at_32k.mistake("This is one layer. Each of the 32 layers has keys and values of its own.")
def _():
    return 0.5


@gib_at_32k.mistake("This is float32, four bytes a number. The question says bfloat16: two.")
def _():
    return 32


@gib_at_32k.mistake("That many GB, yes: a GB is 10 to the power of 9 bytes. The question is about GiB, 2 to the power of 30.")
def _():
    return 17.18


@gib_at_32k.mistake("32k is short for 32,768 tokens here, not 32,000.")
def _():
    return 15.625


@gib_at_32k.mistake("These are the bytes of one token. Take them 32,768 times, then divide by 2 to the power of 30.")
def _():
    return 524_288


@gib_at_32k.mistake("These are bytes. Divide by 2 to the power of 30 to get GiB.")
def _():
    return 2**34


# --- grouped-query attention ----------------------------------------------------------------------------------------------


def grouped_draws():
    """(q, k, v) of several sizes H, Hkv, T, D; small first. The first has one position: its result is the values themselves."""
    k, v = torch.zeros(3, 1, 2), torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]])
    g = torch.Generator().manual_seed(3)
    sizes = ((3, 1, 4, 5), (2, 2, 5, 3), (8, 2, 3, 4), (4, 1, 6, 5), (6, 3, 5, 7), (12, 4, 7, 6))
    drawn = [(torch.randn(H, T, D, generator=g), *torch.randn(2, Hkv, T, D, generator=g)) for H, Hkv, T, D in sizes]
    return [(torch.ones(6, 1, 2), k, v), *drawn]


attend_grouped = Exercise(
    "attend_grouped",
    cases=grouped_draws,
    forbid=("scaled_dot_product_attention", "multi_head_attention_forward"),
    hints=[
        "group = H // Hkv query heads share a key head. Which key head serves query head h? Look at the little table again.",
        "With a loop: attend(q[h], k[h // group], v[h // group]) for each h, then torch.stack.",
        "Without: k.repeat_interleave(group, dim=0) gives every query head a key head of its own, in the right order. The same for v.",
    ],
)


@attend_grouped.reference
def _(q, k, v):
    H, T, D = q.shape
    group = H // len(k)
    k, v = k.repeat_interleave(group, dim=0), v.repeat_interleave(group, dim=0)  # (H, T, D): 0 0 0 0 1 1 1 1 ...
    scores = q @ k.transpose(1, 2) / math.sqrt(D)
    future = torch.ones(T, T).triu(1).bool()
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ v


@attend_grouped.right
def _(q, k, v):
    H, T, D = q.shape
    out = torch.zeros_like(q)
    for h in range(H):
        kv = h // (H // k.shape[0])
        for i in range(T):
            scores = torch.stack([q[h, i] @ k[kv, j] for j in range(i + 1)]) / D**0.5
            powers = torch.exp(scores - scores.max())
            for j, weight in enumerate(powers / powers.sum()):
                out[h, i] += weight * v[kv, j]
    return out


@attend_grouped.right
def _(q, k, v):
    Hkv, T, D = k.shape
    rows = q.reshape(Hkv, -1, D)  # (Hkv, group * T, D): the queries of a group under each other
    scores = (rows @ k.mT).reshape(-1, T, T) * D**-0.5 + torch.full((T, T), float("-inf")).triu(1)
    return (scores.softmax(-1).reshape(Hkv, -1, T) @ v).reshape(q.shape)


@attend_grouped.right
def _(q, k, v):
    T, D = q.shape[1:]
    grouped = q.unflatten(0, (len(k), -1))  # (Hkv, group, T, D)
    scores = torch.einsum("ngid,njd->ngij", grouped, k) / math.sqrt(D)
    at = torch.arange(T)
    scores = torch.where(at[:, None] >= at, scores, torch.tensor(-torch.inf))
    return torch.einsum("ngij,njd->ngid", scores.softmax(-1), v).flatten(0, 1)


@attend_grouped.right
def _(q, k, v):
    Hkv, T, D = k.shape
    group = q.shape[0] // Hkv
    seen = torch.ones(T, T, dtype=torch.bool).tril()
    scores = q.view(Hkv, group, T, D) @ k[:, None].transpose(-1, -2) / D**0.5  # broadcast: nothing is copied
    weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
    return (weights @ v[:, None]).reshape(q.shape)


TILED = ("The query heads are dealt out in turn: 0, 1, 2, 0, 1, 2, ... (h % Hkv, or k.repeat, or a view that puts the group first). "
         "Neighbours belong together: h // group, or repeat_interleave.")


@attend_grouped.mistake(TILED)
def _(q, k, v):
    T, D = q.shape[1:]
    heads = [h % len(k) for h in range(len(q))]
    scores = q @ k[heads].mT / D**0.5 + torch.full((T, T), -torch.inf).triu(1)
    return scores.softmax(-1) @ v[heads]


@attend_grouped.mistake(TILED)
def _(q, k, v):
    T, D = q.shape[1:]
    group = len(q) // len(k)
    k, v = k.repeat(group, 1, 1), v.repeat(group, 1, 1)
    return (q @ k.mT / D**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v


@attend_grouped.mistake(TILED)
def _(q, k, v):
    Hkv, T, D = k.shape
    scores = q.view(-1, Hkv, T, D) @ k.mT / D**0.5
    return (scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v).reshape(q.shape)


@attend_grouped.mistake("Only the keys are grouped; the values are dealt out in turn. A head reads its keys and its values at the same place.")
def _(q, k, v):
    T, D = q.shape[1:]
    group = len(q) // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat(group, 1, 1)
    return (q @ k.mT / D**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v


@attend_grouped.mistake("Only the values are grouped; the keys are dealt out in turn. A head reads its keys and its values at the same place.")
def _(q, k, v):
    T, D = q.shape[1:]
    group = len(q) // len(k)
    k, v = k.repeat(group, 1, 1), v.repeat_interleave(group, 0)
    return (q @ k.mT / D**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v


@attend_grouped.mistake("h // Hkv: two numbers are confused. Hkv is how many key heads there are; the group, H // Hkv, is how many query "
                        "heads share one. Divide by the group.")
def _(q, k, v):
    T, D = q.shape[1:]
    heads = [h // len(k) for h in range(len(q))]
    scores = q @ k[heads].mT / D**0.5 + torch.full((T, T), -torch.inf).triu(1)
    return scores.softmax(-1) @ v[heads]


@attend_grouped.mistake("Each key head is repeated Hkv times; it should be group = H // Hkv times. Hkv is how many key heads there are.")
def _(q, k, v):
    T, D = q.shape[1:]
    k, v = k.repeat_interleave(len(k), 0), v.repeat_interleave(len(v), 0)
    return (q @ k.mT / D**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v


@attend_grouped.mistake("expand() can only stretch a dimension of size 1: it works for one key head and for no other number.")
def _(q, k, v):
    T, D = q.shape[1:]
    k, v = k.expand(len(q), -1, -1), v.expand(len(q), -1, -1)
    return (q @ k.mT / D**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v


@attend_grouped.mistake("q and k are multiplied as they are, with different numbers of heads. Give each query head its key head first.")
def _(q, k, v):
    T, D = q.shape[1:]
    return (q @ k.mT / D**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v


@attend_grouped.mistake("All query heads use key head 0. That is multi-query attention; here there are Hkv key heads.")
def _(q, k, v):
    T, D = q.shape[1:]
    scores = q @ k[:1].mT / D**0.5
    return scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v[:1]


@attend_grouped.mistake("Only the first Hkv query heads are answered. All H of them look; several share one key head.")
def _(q, k, v):
    T, D = q.shape[1:]
    scores = q[: len(k)] @ k.mT / D**0.5
    return scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v


@attend_grouped.mistake("The queries of a group are averaged before they look. Each keeps its own query: the group shares keys and values only.")
def _(q, k, v):
    T, D = q.shape[1:]
    group = len(q) // len(k)
    scores = q.view(len(k), group, T, D).mean(1) @ k.mT / D**0.5
    mixed = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v
    return mixed.repeat_interleave(group, 0)


@attend_grouped.mistake("The results of a group are averaged, so only Hkv heads come out. Each of the H query heads gives a result of its own.")
def _(q, k, v):
    T, D = q.shape[1:]
    group = len(q) // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    weights = (q @ k.mT / D**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1)
    return (weights @ v).view(-1, group, T, D).mean(1)


@attend_grouped.mistake("The key heads are averaged into one. They stay apart: each serves its own group.")
def _(q, k, v):
    T, D = q.shape[1:]
    scores = q @ k.mean(0).T / D**0.5
    return scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v.mean(0)


@attend_grouped.mistake("The heads are right, but come out in the wrong order: undo the view in the order in which you made it.")
def _(q, k, v):
    T, D = q.shape[1:]
    scores = q.view(len(k), -1, T, D) @ k[:, None].mT / D**0.5
    mixed = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v[:, None]
    return mixed.transpose(0, 1).reshape(q.shape)


@attend_grouped.mistake("Heads and positions have changed places in the result: (T, H, D) is asked for nowhere, (H, T, D) is.")
def _(q, k, v):
    T, D = q.shape[1:]
    group = len(q) // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    weights = (q @ k.mT / D**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1)
    return (weights @ v).transpose(0, 1)


@attend_grouped.mistake("The causal mask runs on through the folded rows: it is right for the first query head of a group and shows the others "
                        "the future. Each query head starts again at position 0.")
def _(q, k, v):
    Hkv, T, D = k.shape
    scores = q.reshape(Hkv, -1, D) @ k.mT / D**0.5
    scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
    return (scores.softmax(-1) @ v).reshape(q.shape)


@attend_grouped.mistake("It is not causal: every head sees the future.")
def _(q, k, v):
    group = len(q) // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    return (q @ k.mT / q.shape[2] ** 0.5).softmax(-1) @ v


@attend_grouped.mistake("The scores are not divided by the square root of D.")
def _(q, k, v):
    T = q.shape[1]
    group = len(q) // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    return (q @ k.mT).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v


@attend_grouped.mistake("The scores are scaled by all heads together, the square root of H * D. A head knows only its own D numbers.")
def _(q, k, v):
    H, T, D = q.shape
    group = H // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    return (q @ k.mT / (H * D) ** 0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1) @ v


@attend_grouped.mistake("The future is masked after the softmax: its share is thrown away and the rows no longer sum to 1.")
def _(q, k, v):
    T, D = q.shape[1:]
    group = len(q) // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    return (q @ k.mT / D**0.5).softmax(-1).masked_fill(torch.ones(T, T).triu(1).bool(), 0) @ v


@attend_grouped.mistake("Masked scores are set to 0, and e to the power of 0 is 1. They must be -inf.")
def _(q, k, v):
    T, D = q.shape[1:]
    group = len(q) // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    return (q @ k.mT / D**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), 0).softmax(-1) @ v


@attend_grouped.mistake("The softmax runs over the wrong dimension. Each query's weights, a row, must sum to 1: softmax(-1).")
def _(q, k, v):
    T, D = q.shape[1:]
    group = len(q) // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    return (q @ k.mT / D**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(1) @ v


@attend_grouped.mistake("The heads are shared out rightly, but nothing is weighed: there is no attention in it. Each query's scores decide how much "
                        "of each value it gets.")
def _(q, k, v):
    T = q.shape[1]
    v = v.repeat_interleave(len(q) // len(k), 0)
    return v.cumsum(1) / torch.arange(1, T + 1)[:, None]


@attend_grouped.mistake("The values are handed out as they are: there is no attention in it. Scores, mask, softmax, then the mix.")
def _(q, k, v):
    return v.repeat_interleave(len(q) // len(k), 0)


# --- one decode step ------------------------------------------------------------------------------------------------------


def decode_draws():
    """(q, k, v, keys, values) for T tokens already stored, T = 0 first: its result is the new token's values themselves."""
    k, v, none = torch.zeros(3, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.zeros(3, 0, 2)
    g = torch.Generator().manual_seed(4)
    sizes = ((8, 2, 1, 7), (2, 2, 3, 9), (3, 1, 5, 4), (4, 1, 0, 6), (6, 3, 9, 5), (12, 4, 7, 5))
    drawn = [
        (torch.randn(H, D, generator=g), *torch.randn(2, Hkv, D, generator=g), *torch.randn(2, Hkv, T, D, generator=g))
        for H, Hkv, T, D in sizes
    ]
    return [(torch.ones(6, 2), k, v, none, none), *drawn]


def broken_step(q, k, v, keys, values):
    """Two bugs, both of which were shipped elsewhere. The exercise is to find and mend them."""
    group = len(q) // len(k)
    all_keys, all_values = keys.repeat(group, 1, 1), values.repeat(group, 1, 1)
    scores = all_keys @ q[:, :, None] / math.sqrt(q.shape[1])
    out = (scores.softmax(1) * all_values).sum(1)
    keys = torch.cat((keys, k[:, None]), dim=1)
    values = torch.cat((values, v[:, None]), dim=1)
    return out, keys, values


decode_step = Exercise(
    "decode_step",
    cases=decode_draws,
    hints=[
        "Take the first token: keys and values are empty. Which key could its query look at, at the moment when it looks?",
        "A token sees itself. So its key and value must be stored before it looks, not after.",
        "The second bug is the one you have seen drawn: which key head does query head 1 get from keys.repeat(group, 1, 1)?",
    ],
)


@decode_step.reference
def _(q, k, v, keys, values):
    keys = torch.cat((keys, k[:, None]), dim=1)  # first join, then look: a token sees itself
    values = torch.cat((values, v[:, None]), dim=1)
    group = len(q) // len(k)
    all_keys, all_values = keys.repeat_interleave(group, dim=0), values.repeat_interleave(group, dim=0)
    scores = all_keys @ q[:, :, None] / math.sqrt(q.shape[1])  # (H, T + 1, 1)
    out = (scores.softmax(1) * all_values).sum(1)
    return out, keys, values


@decode_step.right
def _(q, k, v, keys, values):
    keys, values = torch.cat((keys, k[:, None]), 1), torch.cat((values, v[:, None]), 1)
    rows = q.view(len(k), -1, q.shape[1])  # (Hkv, group, D): no key is copied
    weights = (rows @ keys.mT / q.shape[1] ** 0.5).softmax(-1)
    return (weights @ values).reshape(q.shape), keys, values


@decode_step.right
def _(q, k, v, keys, values):
    H, D = q.shape
    new_keys = torch.stack([torch.stack([*keys[n], k[n]]) for n in range(len(k))])
    new_values = torch.stack([torch.stack([*values[n], v[n]]) for n in range(len(k))])
    out = []
    for h in range(H):
        n = h // (H // len(k))
        powers = [torch.exp(q[h] @ key / D**0.5) for key in new_keys[n]]
        out.append(sum(p * value for p, value in zip(powers, new_values[n], strict=True)) / sum(powers))
    return torch.stack(out), new_keys, new_values


@decode_step.right
def _(q, k, v, keys, values):
    keys, values = torch.cat((keys, k.unsqueeze(1)), dim=1), torch.cat((values, v.unsqueeze(1)), dim=1)
    out = F.scaled_dot_product_attention(q[None, :, None], keys[None], values[None], enable_gqa=True)
    return out[0, :, 0], keys, values


@decode_step.right
def _(q, k, v, keys, values):
    keys, values = torch.cat([keys, k[:, None, :]], 1), torch.cat([values, v[:, None, :]], 1)
    grouped = q.unflatten(0, (len(k), -1))
    weights = torch.einsum("ngd,njd->ngj", grouped, keys).div(math.sqrt(q.shape[-1])).softmax(-1)
    return torch.einsum("ngj,njd->ngd", weights, values).flatten(0, 1), keys, values


decode_step.mistake("Both bugs are still there. Begin with the first token, when the cache is empty: the token looks before it is stored.")(
    broken_step
)


@decode_step.mistake("One bug is mended, the order of the heads. The token is still left out of its own attention: store first, then look.")
def _(q, k, v, keys, values):
    group = len(q) // len(k)
    all_keys, all_values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
    scores = all_keys @ q[:, :, None] / math.sqrt(q.shape[1])
    out = (scores.softmax(1) * all_values).sum(1)
    return out, torch.cat((keys, k[:, None]), dim=1), torch.cat((values, v[:, None]), dim=1)


@decode_step.mistake("One bug is mended, the token sees itself. The heads are still dealt out in turn: neighbours share, repeat_interleave.")
def _(q, k, v, keys, values):
    keys, values = torch.cat((keys, k[:, None]), dim=1), torch.cat((values, v[:, None]), dim=1)
    group = len(q) // len(k)
    all_keys, all_values = keys.repeat(group, 1, 1), values.repeat(group, 1, 1)
    scores = all_keys @ q[:, :, None] / math.sqrt(q.shape[1])
    return (scores.softmax(1) * all_values).sum(1), keys, values


@decode_step.mistake("The new key and value are put in front. Softmax does not mind, but slot T must hold token T: put them at the end.")
def _(q, k, v, keys, values):
    keys, values = torch.cat((k[:, None], keys), dim=1), torch.cat((v[:, None], values), dim=1)
    rows = q.view(len(k), -1, q.shape[1])
    weights = (rows @ keys.mT / q.shape[1] ** 0.5).softmax(-1)
    return (weights @ values).reshape(q.shape), keys, values


@decode_step.mistake("The result is right, but the old keys and values are returned: the next token would not know of this one.")
def _(q, k, v, keys, values):
    rows = q.view(len(k), -1, q.shape[1])
    weights = (rows @ torch.cat((keys, k[:, None]), 1).mT / q.shape[1] ** 0.5).softmax(-1)
    return (weights @ torch.cat((values, v[:, None]), 1)).reshape(q.shape), keys, values


@decode_step.mistake("The new value is appended to the old *keys*: values = torch.cat((keys, ...)) should begin with values.")
def _(q, k, v, keys, values):
    keys, values = torch.cat((keys, k[:, None]), dim=1), torch.cat((keys, v[:, None]), dim=1)
    rows = q.view(len(k), -1, q.shape[1])
    weights = (rows @ keys.mT / q.shape[1] ** 0.5).softmax(-1)
    return (weights @ values).reshape(q.shape), keys, values


@decode_step.mistake("The new key is appended to the values too. The values grow by v.")
def _(q, k, v, keys, values):
    keys, values = torch.cat((keys, k[:, None]), dim=1), torch.cat((values, k[:, None]), dim=1)
    rows = q.view(len(k), -1, q.shape[1])
    weights = (rows @ keys.mT / q.shape[1] ** 0.5).softmax(-1)
    return (weights @ values).reshape(q.shape), keys, values


@decode_step.mistake("The last stored token is overwritten. A growing cache forgets nothing: append with torch.cat.")
def _(q, k, v, keys, values):
    keys, values = torch.cat((keys[:, :-1], k[:, None]), dim=1), torch.cat((values[:, :-1], v[:, None]), dim=1)
    rows = q.view(len(k), -1, q.shape[1])
    weights = (rows @ keys.mT / q.shape[1] ** 0.5).softmax(-1)
    return (weights @ values).reshape(q.shape), keys, values


@decode_step.mistake("It writes into the last place of the keys and values it was given. Make new ones with torch.cat.")
def _(q, k, v, keys, values):
    keys[:, -1:], values[:, -1:] = k[:, None], v[:, None]
    rows = q.view(len(k), -1, q.shape[1])
    weights = (rows @ keys.mT / q.shape[1] ** 0.5).softmax(-1)
    return (weights @ values).reshape(q.shape), keys, values


@decode_step.mistake("q is scaled in place (q /= ...), so the caller's query has changed. Write q = q / ...")
def _(q, k, v, keys, values):
    q /= math.sqrt(q.shape[1])
    keys, values = torch.cat((keys, k[:, None]), dim=1), torch.cat((values, v[:, None]), dim=1)
    weights = (q.view(len(k), -1, q.shape[1]) @ keys.mT).softmax(-1)
    return (weights @ values).reshape(q.shape), keys, values


@decode_step.mistake("Only the last few tokens are kept. That is a window, and comes in chapter 05; this cache forgets nothing.")
def _(q, k, v, keys, values):
    keys, values = torch.cat((keys, k[:, None]), dim=1)[:, -4:], torch.cat((values, v[:, None]), dim=1)[:, -4:]
    rows = q.view(len(k), -1, q.shape[1])
    weights = (rows @ keys.mT / q.shape[1] ** 0.5).softmax(-1)
    return (weights @ values).reshape(q.shape), keys, values


@decode_step.mistake("The repeated keys and values are stored. Then the cache is as large as with H key heads: repeat for the product only.")
def _(q, k, v, keys, values):
    group = len(q) // len(k)
    keys = torch.cat((keys, k[:, None]), dim=1).repeat_interleave(group, 0)
    values = torch.cat((values, v[:, None]), dim=1).repeat_interleave(group, 0)
    scores = keys @ q[:, :, None] / math.sqrt(q.shape[1])
    return (scores.softmax(1) * values).sum(1), keys, values


@decode_step.mistake("A causal mask that begins at key 0 leaves the one query nothing but key 0. The newest token may see everything "
                     "stored: no mask is needed.")
def _(q, k, v, keys, values):
    keys, values = torch.cat((keys, k[:, None]), dim=1), torch.cat((values, v[:, None]), dim=1)
    out = F.scaled_dot_product_attention(q[None, :, None], keys[None], values[None], is_causal=True, enable_gqa=True)
    return out[0, :, 0], keys, values


@decode_step.mistake("The scores are not divided by the square root of D.")
def _(q, k, v, keys, values):
    keys, values = torch.cat((keys, k[:, None]), dim=1), torch.cat((values, v[:, None]), dim=1)
    weights = (q.view(len(k), -1, q.shape[1]) @ keys.mT).softmax(-1)
    return (weights @ values).reshape(q.shape), keys, values


@decode_step.mistake("The new token sees only itself: what is stored was not used. Look at the keys after appending to them.")
def _(q, k, v, keys, values):
    out = v.repeat_interleave(len(q) // len(k), 0)
    return out, torch.cat((keys, k[:, None]), dim=1), torch.cat((values, v[:, None]), dim=1)


@decode_step.mistake("Nothing is weighed: this is the plain average of the stored values.")
def _(q, k, v, keys, values):
    keys, values = torch.cat((keys, k[:, None]), dim=1), torch.cat((values, v[:, None]), dim=1)
    return values.mean(1).repeat_interleave(len(q) // len(k), 0), keys, values
