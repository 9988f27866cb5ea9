"""Chapter 10: what fits into a memory, where a tensor lies in a file, what it is called, and in which order its rows are."""

import json
import math
import re
import struct

import torch

from minimistral.exercises.frame import Exercise

GIB = 2**30

# --- plan the memory ------------------------------------------------------------------------------------------------------


def plans():
    """(memory, weights, workspace, per_token, batch, window): by hand, at the edges, then GPUs and 7Bs."""
    v01, v03 = 14_483_464_192, 14_496_047_104
    return [
        (100, 40, 10, 5, 1, 30),
        (100, 40, 10, 5, 2, None),
        (103, 40, 9, 7, 3, None),
        (100, 40, 10, 5, 2, 4),
        (100, 40, 10, 5, 2, 9),
        (100, 40, 10, 5, 2, 5),  # a full ring takes the last byte
        (45, 40, 10, 5, 1, None),
        (45, 40, 10, 5, 1, 3),
        (50, 40, 10, 5, 1, None),
        (52, 40, 10, 5, 1, 1),
        (16 * GIB, v01, GIB // 2, 131_072, 1, 4096),
        (15 * GIB, v01, GIB // 2, 131_072, 3, 4096),
        (24 * GIB, v03, GIB // 2, 131_072, 8, None),
        (80 * GIB, v01, GIB, 131_072, 32, 4096),
        (80 * GIB, v03, GIB, 131_072, 1, None),
    ]


longest = Exercise(
    "longest",
    cases=plans,
    tolerance=1e-9,
    hints=[
        "First take off what is needed whatever the text is: room = memory - weights - workspace. It may be negative.",
        "One token more costs every row one: batch * per_token bytes. How many such columns go into the room? Whole ones only: //.",
        "A row never keeps more than window tokens. If that many columns go into the room, no text is too long: math.inf.",
    ],
)


@longest.reference
def _(memory, weights, workspace, per_token, batch, window):
    room = memory - weights - workspace
    columns = max(0, room // (batch * per_token))
    if window is not None and columns >= window:
        return math.inf
    return columns


@longest.right
def _(memory, weights, workspace, per_token, batch, window):
    def fits(n):
        kept = n if window is None else min(n, window)
        return weights + workspace + batch * per_token * kept <= memory

    if window is not None and fits(window):
        return float("inf")
    low, high = 0, memory
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


@longest.right
def _(memory, weights, workspace, per_token, batch, window):
    n = math.floor((memory - weights - workspace) / per_token / batch)
    if n < 0:
        return 0
    return n if window is None or n < window else math.inf


@longest.right
def _(memory, weights, workspace, per_token, batch, window):
    left, n = memory - weights - workspace, 0
    while left >= batch * per_token:
        if n == window:
            break
        left, n = left - batch * per_token, n + 1
    return math.inf if n == window else n


@longest.mistake("The batch is forgotten: every row keeps a cache of its own, so a column of tokens costs batch * per_token.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace) // per_token)
    return math.inf if window is not None and columns >= window else columns


@longest.mistake("The window is forgotten: a row that keeps at most window tokens stops growing there.")
def _(memory, weights, workspace, per_token, batch, window):
    return max(0, (memory - weights - workspace) // (batch * per_token))


@longest.mistake("The window bounds what is kept, not the text. If a full ring fits, a text of any length does: return math.inf.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace) // (batch * per_token))
    return columns if window is None else min(columns, window)


@longest.mistake("A window alone is no promise: the full ring of every row has to fit as well.")
def _(memory, weights, workspace, per_token, batch, window):
    if window is not None:
        return math.inf
    return max(0, (memory - weights - workspace) // (batch * per_token))


@longest.mistake("A ring that fits exactly fits: with room for window columns, and not only for more, there is no bound.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace) // (batch * per_token))
    return math.inf if window is not None and columns > window else columns


@longest.mistake("A ring too large to be filled may still be used in part: the answer is then the columns that fit, not 0.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace) // (batch * per_token))
    return columns if window is None else math.inf if columns >= window else 0


@longest.mistake("The workspace is forgotten: it must be free at the moment when the model computes.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights) // (batch * per_token))
    return math.inf if window is not None and columns >= window else columns


@longest.mistake("The weights are there once, however many rows there are: only the cache is multiplied by batch.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory // batch - weights - workspace) // per_token)
    return math.inf if window is not None and columns >= window else columns


@longest.mistake("Where not even the weights fit, this gives a negative number. No text can be fed: that is 0.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = (memory - weights - workspace) // (batch * per_token)
    return math.inf if window is not None and columns >= window else columns


@longest.mistake("Tokens are whole, and the last one has to fit: round down.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace) / (batch * per_token))
    return math.inf if window is not None and columns >= window else columns


@longest.mistake("Rounded up: the last token does not fit any more. Round down.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, math.ceil((memory - weights - workspace) / (batch * per_token)))
    return math.inf if window is not None and columns >= window else columns


@longest.mistake("Where nothing bounds the text, the answer is math.inf, not None.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace) // (batch * per_token))
    return None if window is not None and columns >= window else columns


@longest.mistake("Workspace is there once, as the weights are: only the cache is multiplied by batch.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace * batch) // (per_token * batch))
    return math.inf if window is not None and columns >= window else columns


@longest.mistake("The weights are forgotten: they take their room before the first token does.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - workspace) // (batch * per_token))
    return math.inf if window is not None and columns >= window else columns


@longest.mistake("Without a window nothing is overwritten, so the memory bounds the text: math.inf is only for a ring that fits.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace) // (batch * per_token))
    return math.inf if window is None or columns >= window else columns


@longest.mistake("A window of None is no number, and cannot be compared with one: ask for None first.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace) // (batch * per_token))
    return math.inf if columns >= window else columns


@longest.mistake("Where nothing bounds the text, the answer is math.inf itself, not a very large number.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace) // (batch * per_token))
    return 2**63 - 1 if window is not None and columns >= window else columns


@longest.mistake("Rounded to the nearest: half a token does not fit. Round down.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, round((memory - weights - workspace) / (batch * per_token)))
    return math.inf if window is not None and columns >= window else columns


@longest.mistake("Where the weights do not fit, the room is negative: abs() makes room of it. The answer is 0 there.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = abs(memory - weights - workspace) // (batch * per_token)
    return math.inf if window is not None and columns >= window else columns


@longest.mistake("One token too few: if the room is a multiple of what a column costs, the last column fits.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace) // (batch * per_token) - 1)
    return math.inf if window is not None and columns >= window else columns


@longest.mistake("131,072 bytes are the 7B's. Take what is given: per_token.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace) // (batch * 131_072))
    return math.inf if window is not None and columns >= window else columns


@longest.mistake("4,096 is v0.1's window. Take what is given: window.")
def _(memory, weights, workspace, per_token, batch, window):
    columns = max(0, (memory - weights - workspace) // (batch * per_token))
    return math.inf if window is not None and columns >= 4096 else columns


@longest.mistake("The batch is divided out at the end, and so the tokens of all rows together are compared with one row's window. "
                 "Divide first.")
def _(memory, weights, workspace, per_token, batch, window):
    tokens = max(0, (memory - weights - workspace) // per_token)
    return math.inf if window is not None and tokens >= window else tokens // batch


# --- a header, by hand ----------------------------------------------------------------------------------------------------


def file_of(tensors: dict, metadata: dict | None = None, pad: int = 0, first: tuple = ()) -> bytes:
    """A safetensors file: tensors is name -> (dtype, shape, bytes of its numbers), in the order of the numbers.

    The header names them in the same order, but `first` before all others; pad: so many spaces behind it.
    """
    header, at = {"__metadata__": metadata} if metadata else {}, 0
    for name, (dtype, shape, numbers) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(numbers)]}
        at += len(numbers)
    header = {name: header[name] for name in first} | header
    text = json.dumps(header, separators=(",", ":")).encode() + b" " * pad
    return struct.pack("<Q", len(text)) + text + b"".join(numbers for _, _, numbers in tensors.values())


def files():
    """(data, name): one small tensor; two; metadata first, spaces behind; a header too long for one byte, then for two; and one that
    names the second tensor first."""
    one = {"norm.weight": ("BF16", [3], b"abcdef")}
    two = {"output.weight": ("F32", [2, 1], bytes(range(8))), "norm.weight": ("F16", [5], b"0123456789")}
    many = {f"layers.{n}.ffn_norm.weight": ("BF16", [n + 1], bytes([n]) * 2 * (n + 1)) for n in range(7)}
    noted = file_of(two, {"format": "pt", "norm.weight": "written twice"}, pad=5)
    long = file_of(many, {"licence": "Apache 2.0 " * 7000})
    return [
        (file_of(one), "norm.weight"),
        (file_of(two), "norm.weight"),
        (file_of(two), "output.weight"),
        (noted, "norm.weight"),
        (file_of(many), "layers.3.ffn_norm.weight"),
        (long, "layers.6.ffn_norm.weight"),
        (file_of(two, first=("norm.weight",)), "norm.weight"),
    ]


where = Exercise(
    "where",
    cases=files,
    forbid=("deserialize",),  # what safetensors reads bytes with, by whatever name
    hints=[
        'The first eight bytes are one number: int.from_bytes(data[:8], "little"). It says how many bytes of JSON follow.',
        "header = json.loads(data[8 : 8 + length]) is a dictionary. What you look for is header[name]['data_offsets'].",
        "Those two count from the first byte behind the header. In the file that byte is number 8 + length.",
    ],
)


@where.reference
def _(data, name):
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    begin, end = header[name]["data_offsets"]
    return 8 + length + begin, 8 + length + end


@where.right
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    first = 8 + length
    return [first + offset for offset in json.loads(data[8:first].decode())[name]["data_offsets"]]


@where.right
def _(data, name):
    length = sum(byte * 256**n for n, byte in enumerate(data[:8]))
    header = json.loads(bytes(data[8 : length + 8]).decode("utf-8"))
    header.pop("__metadata__", None)
    numbers = max(entry["data_offsets"][1] for entry in header.values())
    first = len(data) - numbers  # what is not numbers is in front of them
    return first + header[name]["data_offsets"][0], first + header[name]["data_offsets"][1]


@where.mistake("The offsets count from the end of the header, not from the beginning of the file: add 8 + the header's length to both.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])[name]["data_offsets"]


@where.mistake("The eight bytes in front of the header are forgotten: the numbers begin at 8 + length.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return length + begin, length + end


@where.mistake("Only the eight bytes are added; the header itself lies in front of the numbers as well.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 8 + begin, 8 + end


@where.mistake("The second offset is where the tensor ends. It is no length: do not add it to the first.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + begin, 8 + length + begin + end


@where.mistake("This is where it begins and how long it is. Asked for is where it begins and where it ends.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + begin, end - begin


@where.mistake("Only the beginning is moved behind the header; the end has to be moved too.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + begin, end


@where.mistake("The eight bytes are read from the wrong end: the first is the smallest part. That is 'little', or '<Q' for struct.")
def _(data, name):
    length = int.from_bytes(data[:8], "big")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + begin, 8 + length + end


@where.mistake("Only the first byte of the length is read: one byte counts to 255, and headers are longer. Take all eight.")
def _(data, name):
    length = data[0]
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + begin, 8 + length + end


@where.mistake("Two bytes count to 65,535. The length has eight.")
def _(data, name):
    length = int.from_bytes(data[:2], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + begin, 8 + length + end


@where.mistake("The eight bytes are one number. Their sum is not: the second byte counts 256 times as much as the first.")
def _(data, name):
    length = sum(data[:8])
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + begin, 8 + length + end


@where.mistake("The header is cut off by eight bytes: it begins at byte 8 and is length bytes long, so it ends at 8 + length.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8:length])[name]["data_offsets"]
    return 8 + length + begin, 8 + length + end


@where.mistake("The eight bytes are taken off, and they have to be added: the numbers begin at 8 + length.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return length - 8 + begin, length - 8 + end


@where.mistake("Not the size of the file counts, but that of the header: len(data) holds the numbers as well.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return len(data) + begin, len(data) + end


@where.mistake("Not the size of the file counts, but that of the header: len(data) holds the numbers as well.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return len(data) - 8 + begin, len(data) - 8 + end


@where.mistake("The offsets are counted back from the end of the file. They count forward, from the first byte behind the header.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return len(data) - end, len(data) - begin


@where.mistake("One byte too far: the first byte behind the header is number 8 + length, since bytes are counted from 0.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 9 + length + begin, 9 + length + end


@where.mistake("The end is where the tensor stops: data[begin:end] leaves out the byte number end by itself. Take off nothing.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + begin, 8 + length + end - 1


@where.mistake("The end of the header is looked for in the text. Spaces may follow its last bracket: the eight bytes say how long it is.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    behind = 8 + data[8 : 8 + length].rfind(b"}") + 1
    begin, end = json.loads(data[8:behind])[name]["data_offsets"]
    return behind + begin, behind + end


@where.mistake("Not every number has two bytes: dtype may be F32. The second offset already says where the tensor ends.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])[name]
    begin = 8 + length + entry["data_offsets"][0]
    return begin, begin + 2 * math.prod(entry["shape"])


@where.mistake("Not every number has four bytes: dtype may be BF16. The second offset already says where the tensor ends.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])[name]
    begin = 8 + length + entry["data_offsets"][0]
    return begin, begin + 4 * math.prod(entry["shape"])


@where.mistake("Always the last tensor of the header. Asked for is the one called name.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = list(json.loads(data[8 : 8 + length]).values())[-1]["data_offsets"]
    return 8 + length + begin, 8 + length + end


@where.mistake("The offsets count bytes, whatever the dtype. Do not multiply them.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + 2 * begin, 8 + length + 2 * end


@where.mistake("The sizes are added up in the order of the header, and that need not be the order in the file: take data_offsets.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin = 8 + length
    for other, entry in json.loads(data[8:begin]).items():
        size = entry["data_offsets"][1] - entry["data_offsets"][0] if other != "__metadata__" else 0
        if other == name:
            return begin, begin + size
        begin += size


@where.mistake("Always the first tensor of the header. Asked for is the one called name.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    begin, end = next(entry["data_offsets"] for other, entry in header.items() if other != "__metadata__")
    return 8 + length + begin, 8 + length + end


@where.mistake("These are the bytes themselves. Asked for are the two numbers between which they lie.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return data[8 + length + begin : 8 + length + end]


@where.mistake("Asked for are two numbers, begin and end, in a tuple: return begin, end.")
def _(data, name):
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return slice(8 + length + begin, 8 + length + end)


# --- one tensor, two names ------------------------------------------------------------------------------------------------


def names():
    """(name,): Hugging Face's names; the layer has one digit, two, three."""
    layer = "model.layers.{}.{}.weight"
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj",
             "mlp.up_proj", "input_layernorm", "post_attention_layernorm"]  # fmt: skip
    whole = ["model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"]
    inside = [layer.format(n, part) for n, part in zip((0, 7, 31, 1, 5, 12, 9, 20, 103), parts, strict=True)]
    return [(name,) for name in (*whole, *inside, "model.layers.31.self_attn.rotary_emb.inv_freq")]


native_name = Exercise(
    "native_name",
    cases=names,
    hints=[
        "MIDDLE, above, has the nine of a layer. The three names without a layer need a line each; the number of the layer stays as it is.",
        "name.removeprefix('model.') and name.split('.') help. In a layer's name, parts[2] is the layer, and parts[3:-1] the middle.",
        "First the names that end in inv_freq: None. Then the three without a layer, then f'layers.{parts[2]}.{MIDDLE[...]}.weight'.",
    ],
)

_PARTS = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
_WHOLE = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}


@native_name.reference
def _(name):
    whole = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}
    parts = {
        "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3",
        "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    if name.endswith("inv_freq"):
        return None
    stem = name.removesuffix(".weight")
    if stem in whole:
        return whole[stem] + ".weight"
    _, layers, number, part = stem.split(".", 3)
    return f"{layers}.{number}.{parts[part]}.weight"


@native_name.right
def _(name):
    if "rotary_emb" in name:
        return None
    for theirs, ours in (_WHOLE | _PARTS).items():
        if name.endswith(theirs + ".weight") and theirs != "model.norm":
            return name.replace(theirs, ours).removeprefix("model.")
    return "norm.weight"


@native_name.right
def _(name):
    by_words = {"embed": "tok_embeddings", "lm_head": "output", "q_proj": "attention.wq", "k_proj": "attention.wk", "v_proj": "attention.wv",
                "o_proj": "attention.wo", "gate": "feed_forward.w1", "down": "feed_forward.w2", "up_proj": "feed_forward.w3",
                "input": "attention_norm", "post": "ffn_norm", "model.norm": "norm", "inv_freq": None}
    ours = next(ours for word, ours in by_words.items() if word in name)
    layer = re.search(r"layers\.(\d+)\.", name)
    return None if ours is None else f"{layer[0] if layer else ''}{ours}.weight"


@native_name.right
def _(name):
    pieces = name.split(".")
    if pieces[-1] != "weight":
        return
    if pieces[0] == "lm_head":
        return "output.weight"
    if len(pieces) == 3:
        return {"norm": "norm", "embed_tokens": "tok_embeddings"}[pieces[1]] + ".weight"
    where = {"q_proj": "wq", "k_proj": "wk", "v_proj": "wv", "o_proj": "wo", "gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    if pieces[3] in ("self_attn", "mlp"):
        room = "attention" if pieces[3] == "self_attn" else "feed_forward"
        return f"layers.{pieces[2]}.{room}.{where[pieces[4]]}.weight"
    return f"layers.{pieces[2]}.{'attention' if pieces[3] == 'input_layernorm' else 'ffn'}_norm.weight"


def _renamed(name, **other):
    """The right name, with some parts mistaken."""
    parts = _PARTS | {theirs: other[theirs.split(".")[-1]] for theirs in _PARTS if theirs.split(".")[-1] in other}
    if name.endswith("inv_freq"):
        return None
    stem = name.removesuffix(".weight")
    if stem in _WHOLE:
        return _WHOLE[stem] + ".weight"
    _, layers, number, part = stem.split(".", 3)
    return f"{layers}.{number}.{parts[part]}.weight"


@native_name.mistake("Gate, down, up are w1, w2, w3 in this order. Here the gate and the up projection have changed places: the shapes are "
                     "the same, and the model is another.")
def _(name):
    return _renamed(name, gate_proj="feed_forward.w3", up_proj="feed_forward.w1")


@native_name.mistake("w2 is the one that goes back: down_proj. Gate, up, down would be w1, w3, w2.")
def _(name):
    return _renamed(name, up_proj="feed_forward.w2", down_proj="feed_forward.w3")


@native_name.mistake("The two norms have changed places. input_layernorm stands before attention, post_attention_layernorm before the "
                     "feed-forward.")
def _(name):
    return _renamed(name, input_layernorm="ffn_norm", post_attention_layernorm="attention_norm")


@native_name.mistake("The beginning model. is still there: native names begin with layers.")
def _(name):
    right = _renamed(name)
    return f"model.{right}" if right and right.startswith("layers.") else right


@native_name.mistake("The beginning model. is still there: no native name has it.")
def _(name):
    right = _renamed(name)
    return right if right in (None, "output.weight") else f"model.{right}"


@native_name.mistake("The ending .weight is lost: it belongs to the name, in both formats.")
def _(name):
    right = _renamed(name)
    return right and right.removesuffix(".weight")


@native_name.mistake("Only one digit of the layer is kept, and there are more than ten layers. Split the name at its dots.")
def _(name):
    right = _renamed(name)
    return right and re.sub(r"layers\.(\d)\d+", r"layers.\1", right)


@native_name.mistake("inv_freq is no weight, it can be calculated from theta: give None for it.")
def _(name):
    return _renamed(name) or "layers.31.attention.rotary_emb.inv_freq"


@native_name.mistake("inv_freq is no weight, it can be calculated from theta: give None for it.")
def _(name):
    return _renamed(name) or name


@native_name.mistake("inv_freq is no weight, it can be calculated from theta: give None for it, and do not stop there with an error.")
def _(name):
    parts = name.removesuffix(".weight").split(".")
    if len(parts) < 3:
        return _WHOLE[".".join(parts)] + ".weight"
    return f"layers.{parts[2]}.{_PARTS['.'.join(parts[3:])]}.weight"


@native_name.mistake("lm_head, the head that makes logits, is called output.")
def _(name):
    return name if name == "lm_head.weight" else _renamed(name)


@native_name.mistake("embed_tokens is called tok_embeddings.")
def _(name):
    return "embed_tokens.weight" if "embed" in name else _renamed(name)


@native_name.mistake("The rooms have other names, too: self_attn is called attention, and mlp is called feed_forward.")
def _(name):
    right = _renamed(name)
    return right and right.replace(".attention.", ".self_attn.").replace("feed_forward", "mlp")


@native_name.mistake("The rooms are gone: attention. or feed_forward. stands before wq or w1.")
def _(name):
    right = _renamed(name)
    return right and right.replace(".attention.", ".").replace("feed_forward.", "")


@native_name.mistake("The last norm has no layer: model.norm.weight is norm.weight.")
def _(name):
    return "model.norm.weight" if name == "model.norm.weight" else _renamed(name)


@native_name.mistake("Keys and values have changed places: k_proj is wk, v_proj is wv. The shapes are the same, and the model is another.")
def _(name):
    return _renamed(name, k_proj="attention.wv", v_proj="attention.wk")


@native_name.mistake("q_proj is wq, and o_proj is wo. Here they have changed places.")
def _(name):
    return _renamed(name, q_proj="attention.wo", o_proj="attention.wq")


@native_name.mistake("The layer is always 3, as in the examples. Take it from the name.")
def _(name):
    right = _renamed(name)
    return right and re.sub(r"layers\.\d+", "layers.3", right)


@native_name.mistake("The layers are counted from 0 in both formats: the number stays as it is.")
def _(name):
    right = _renamed(name)
    return right and re.sub(r"layers\.(\d+)", lambda found: f"layers.{int(found[1]) + 1}", right)


@native_name.mistake("Only two digits of the layer are kept. Any layer may come: split the name at its dots.")
def _(name):
    right = _renamed(name)
    return right and re.sub(r"layers\.(\d\d)\d+", r"layers.\1", right)


@native_name.mistake("Names are known for 32 layers only, and any layer may come: leave its number as it is.")
def _(name):
    layer = re.search(r"layers\.(\d+)\.", name)
    return None if layer and int(layer[1]) > 31 else _renamed(name)


@native_name.mistake("The norms of a layer have lost it: layers. and its number stand before attention_norm and ffn_norm.")
def _(name):
    right = _renamed(name)
    return right and re.sub(r"layers\.\d+\.(\w+_norm)", r"\1", right)


@native_name.mistake("lstrip('model.') takes off any of the letters m, o, d, e, l and dots, as long as it finds some. "
                     "removeprefix takes off the word.")
def _(name):
    if name.endswith("inv_freq"):
        return None
    for theirs, ours in (_PARTS | {"lm_head": "output", "embed_tokens": "tok_embeddings"}).items():
        name = name.replace(theirs, ours)
    return name.lstrip("model.")  # noqa: B005


@native_name.mistake("The norms keep their places in their names: input_norm does not exist. They are attention_norm and ffn_norm.")
def _(name):
    right = _renamed(name)
    return right and right.replace(".attention_norm", ".input_norm").replace("ffn_norm", "post_attention_norm")


@native_name.mistake("input_layernorm is attention_norm, and post_attention_layernorm is ffn_norm. The second is not changed here.")
def _(name):
    return _renamed(name, post_attention_layernorm="post_attention_layernorm")


@native_name.mistake("For inv_freq give None, the value: no text.")
def _(name):
    return _renamed(name) or ""


@native_name.mistake("For inv_freq give None, the value: no text.")
def _(name):
    return _renamed(name) or "None"


# --- the rows of wq and wk --------------------------------------------------------------------------------------------------


def stored_rows():
    """(name, w, n_heads, n_kv_heads): no two sizes alike. D = 6, 12 and 20: at 4 both directions are the same; and with twelve rows
    to a head wk can be taken apart into n_heads heads as well, so that this mistake gives numbers, not an error of some reshape."""
    g = torch.Generator().manual_seed(10)

    def draw(*shape, dtype=torch.float32):
        return torch.randn(*shape, generator=g).to(dtype)

    return [
        ("layers.0.attention.wq.weight", draw(6, 2), 1, 1),
        ("layers.0.attention.wq.weight", draw(4 * 12, 16), 4, 2),
        ("layers.3.attention.wk.weight", draw(2 * 12, 16), 4, 2),
        ("layers.1.attention.wv.weight", draw(2 * 12, 16), 4, 2),
        ("layers.1.attention.wo.weight", draw(16, 4 * 12), 4, 2),
        ("layers.12.attention.wk.weight", draw(3 * 20, 36, dtype=torch.bfloat16), 6, 3),
        ("layers.12.attention.wq.weight", draw(6 * 20, 36, dtype=torch.bfloat16), 6, 3),
        ("layers.2.feed_forward.w1.weight", draw(40, 16), 4, 2),
        ("layers.2.attention_norm.weight", draw(16), 4, 2),
        ("norm.weight", draw(16), 4, 2),
        ("tok_embeddings.weight", draw(56, 16), 4, 2),
        ("output.weight", draw(56, 16), 4, 2),
    ]


native_rows = Exercise(
    "native_rows",
    cases=stored_rows,
    hints=[
        "Which tensors did the converter touch, and with how many heads? Everything else is returned as it is, norms with one dimension too.",
        "One head of D = 6, in half-split order, holds its native rows 0 2 4 1 3 5. So native row 1 lies where? At D/2. Take them in turn.",
        "In chapter 02 the axes were head, pair, first or second. Now w.view(heads, 2, D // 2, -1) has head, first or second, pair.",
    ],
)


@native_rows.reference
def _(name, w, n_heads, n_kv_heads):
    heads = {"wq": n_heads, "wk": n_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return w
    halves = w.view(heads, 2, len(w) // heads // 2, -1)
    return halves.transpose(1, 2).reshape(w.shape)


@native_rows.right
def _(name, w, n_heads, n_kv_heads):
    if not name.endswith(("wq.weight", "wk.weight")):
        return w
    D = w.shape[0] // (n_heads if "wq" in name else n_kv_heads)
    out = torch.empty_like(w)
    for first in range(0, len(w), D):
        out[first : first + D : 2] = w[first : first + D // 2]
        out[first + 1 : first + D : 2] = w[first + D // 2 : first + D]
    return out


@native_rows.right
def _(name, w, n_heads, n_kv_heads):
    which = name.split(".")[-2]
    if which not in ("wq", "wk"):
        return w.clone()
    D = len(w) // (n_heads if which == "wq" else n_kv_heads)
    rows = [row // D * D + row % 2 * (D // 2) + row % D // 2 for row in range(len(w))]
    return w[rows]


@native_rows.right
def _(name, w, n_heads, n_kv_heads):
    if "attention.wq" in name:
        heads = w.chunk(n_heads)
    elif "attention.wk" in name:
        heads = w.chunk(n_kv_heads)
    else:
        return w
    return torch.cat([torch.stack(head.chunk(2), dim=1).flatten(0, 1) for head in heads])


def _interleaved(w, heads):
    return w.view(heads, 2, len(w) // heads // 2, -1).transpose(1, 2).reshape(w.shape)


@native_rows.mistake("wk is reordered with the number of query heads. It holds n_kv_heads heads: this very bug was in transformers (#31788).")
def _(name, w, n_heads, n_kv_heads):
    return _interleaved(w, n_heads) if name.split(".")[-2] in ("wq", "wk") else w


@native_rows.mistake("wq is reordered with the number of key heads. It holds n_heads heads.")
def _(name, w, n_heads, n_kv_heads):
    return _interleaved(w, n_kv_heads) if name.split(".")[-2] in ("wq", "wk") else w


@native_rows.mistake("The two numbers of heads have changed places: wq holds n_heads heads, wk n_kv_heads.")
def _(name, w, n_heads, n_kv_heads):
    heads = {"wq": n_kv_heads, "wk": n_heads}.get(name.split(".")[-2])
    return w if heads is None else _interleaved(w, heads)


@native_rows.mistake("This is the way there, from chapter 02: it puts native rows into half-split order. Here they come in half-split order.")
def _(name, w, n_heads, n_kv_heads):
    heads = {"wq": n_heads, "wk": n_kv_heads}.get(name.split(".")[-2])
    return w if heads is None else w.view(heads, -1, 2, w.shape[1]).transpose(1, 2).reshape(w.shape)


@native_rows.mistake("wk is left as it lies. Keys are turned as well as queries, so its rows were reordered too.")
def _(name, w, n_heads, n_kv_heads):
    return _interleaved(w, n_heads) if "wq" in name else w


@native_rows.mistake("Values are not turned, so the rows of wv were never touched: leave them.")
def _(name, w, n_heads, n_kv_heads):
    heads = {"wq": n_heads, "wk": n_kv_heads, "wv": n_kv_heads}.get(name.split(".")[-2])
    return w if heads is None else _interleaved(w, heads)


@native_rows.mistake("Every matrix of attention is reordered here. Only wq and wk were: values are not turned, and wo gets what they bring.")
def _(name, w, n_heads, n_kv_heads):
    heads = {"wq": n_heads, "wk": n_kv_heads, "wv": n_kv_heads, "wo": n_heads}.get(name.split(".")[-2])
    return w if heads is None else _interleaved(w, heads)


@native_rows.mistake("The rows are taken as one long head. Each head keeps its own rows; only inside it the order changes.")
def _(name, w, n_heads, n_kv_heads):
    return _interleaved(w, 1) if name.split(".")[-2] in ("wq", "wk") else w


@native_rows.mistake("Nothing is reordered: the rows of wq and wk come out as they lie in the file. (A reshape alone, or a cat of the "
                     "halves, leaves the order as it is; and name is a native name.)")
def _(name, w, n_heads, n_kv_heads):
    return w


@native_rows.mistake("Every matrix is reordered here. Only wq and wk were: what is turned are queries and keys.")
def _(name, w, n_heads, n_kv_heads):
    return w if w.dim() == 1 else _interleaved(w, n_kv_heads if name.split(".")[-2] == "wk" else n_heads)


@native_rows.mistake("A head of the 7B has 128 rows, others have fewer. How many it has, w and the number of heads say: len(w) // heads.")
def _(name, w, n_heads, n_kv_heads):
    return w.reshape(-1, 2, 64, w.shape[1]).transpose(1, 2).reshape(w.shape) if name.split(".")[-2] in ("wq", "wk") else w


@native_rows.mistake("The rows of a head are those of w over the heads: len(w) // heads. The columns do not say it: D need not be dim / n_heads.")
def _(name, w, n_heads, n_kv_heads):
    D = w.shape[-1] // n_heads
    return _interleaved(w, len(w) // D) if name.split(".")[-2] in ("wq", "wk") else w


@native_rows.mistake("The first and the second of each pair have changed places: the first comes from the first half of the head.")
def _(name, w, n_heads, n_kv_heads):
    heads = {"wq": n_heads, "wk": n_kv_heads}.get(name.split(".")[-2])
    return w if heads is None else w.view(heads, 2, len(w) // heads // 2, -1).flip(1).transpose(1, 2).reshape(w.shape)


@native_rows.mistake("It is done twice. Once is enough: twice is neither order.")
def _(name, w, n_heads, n_kv_heads):
    heads = {"wq": n_heads, "wk": n_kv_heads}.get(name.split(".")[-2])
    return w if heads is None else _interleaved(_interleaved(w, heads), heads)


@native_rows.mistake("What needs no change is to be returned too: w as it is, not None.")
def _(name, w, n_heads, n_kv_heads):
    heads = {"wq": n_heads, "wk": n_kv_heads}.get(name.split(".")[-2])
    return heads and _interleaved(w, heads)


@native_rows.mistake("The dtype is lost: w comes in bfloat16 and has to go in bfloat16. torch.empty_like(w) keeps it.")
def _(name, w, n_heads, n_kv_heads):
    heads = {"wq": n_heads, "wk": n_kv_heads}.get(name.split(".")[-2])
    return (w if heads is None else _interleaved(w, heads)).float()


@native_rows.mistake("The axes of the heads are still there: give the result the shape of w.")
def _(name, w, n_heads, n_kv_heads):
    heads = {"wq": n_heads, "wk": n_kv_heads}.get(name.split(".")[-2])
    return w if heads is None else _interleaved(w, heads).view(heads, len(w) // heads, -1)


@native_rows.mistake("The columns are reordered. What belongs to a head are the rows of wq and wk: (out, in).")
def _(name, w, n_heads, n_kv_heads):
    if name.split(".")[-2] not in ("wq", "wk"):
        return w
    half = (w.shape[1] + 1) // 2
    order = [n // 2 + n % 2 * half for n in range(w.shape[1])]
    return w[:, order]


@native_rows.mistake("The heads are dealt out: row by row from another head. A head's rows lie together before and after.")
def _(name, w, n_heads, n_kv_heads):
    heads = {"wq": n_heads, "wk": n_kv_heads}.get(name.split(".")[-2])
    return w if heads is None else w.view(2, -1, heads, w.shape[1]).permute(2, 1, 0, 3).reshape(w.shape)
