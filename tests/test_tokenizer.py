"""Text and conversations to ids and back: against mistral-common, id for id."""

import hashlib
import random

import pytest
from helpers import small_model
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

import minimistral as mm
from minimistral import Tokenizer, TokenizerError

VERSIONS = ("v1", "v2", "v3")
OURS = {version: Tokenizer.from_version(version) for version in VERSIONS}
THEIRS = {version: getattr(MistralTokenizer, version)() for version in VERSIONS}
CLASSES = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}

AWKWARD = [
    "Hi", "Hello world", " leading", "trailing  ", "  ", "\n", "a\n\nb", "\ttab\t", "", "x" * 300,
    "👨‍👩‍👧 é", "🇫🇷🏳️‍🌈", "e\u0301 é", "שלום \u202eabc", "日本語 テスト", "\x00\x07\x1b[0m", "\u200b\u00a0\ufeff",
    "a\ufffdb", "[INST] x [/INST]", "[INST]", "</s>", "<s>", "<unk><pad>", "▁Hello", "<0xE2>", "[AVAILABLE_TOOLS]",
    "ﬁ ½ Å", "\r\n",
]  # fmt: skip
UNICODE = [*range(1, 0xD800), *range(0xE000, 0x2FFFF)]  # without the surrogates, which are no characters


def random_text(pick):
    """Awkward pieces joined, and sometimes characters from anywhere in Unicode."""
    parts = [pick.choice(AWKWARD) for _ in range(pick.choice([1, 1, 2, 3]))]
    if pick.random() < 0.3:
        parts.append("".join(chr(pick.choice(UNICODE)) for _ in range(4)))
    pick.shuffle(parts)
    return pick.choice(["", " ", "\n"]).join(parts)


def random_conversation(pick):
    """Mostly alternating turns, as people write them; sometimes any roles in any order."""
    if pick.random() < 0.5:
        roles = [("user", "assistant")[n % 2] for n in range(pick.choice([1, 3, 5]))]
        for _ in range(pick.choice([0, 1, 1, 2])):
            roles.insert(pick.choice([0, 0, pick.randrange(len(roles) + 1)]), "system")
    else:
        roles = [pick.choice(["system", "user", "user", "assistant"]) for _ in range(pick.randint(1, 5))]
    return [{"role": role, "content": random_text(pick)} for role in roles]


def as_mistral_common(version, messages):
    """Their ids, or None where they refuse."""
    try:
        request = ChatCompletionRequest(messages=[CLASSES[m["role"]](content=m["content"]) for m in messages])
        return THEIRS[version].encode_chat_completion(request).tokens
    except Exception:  # a dozen classes without a common base
        return None


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_v1_file_is_the_one_released_with_7b_v01():
    contents = OURS["v1"].path.read_bytes()
    assert len(contents) == 493_443
    assert hashlib.sha256(contents).hexdigest() == "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055"


@pytest.mark.parametrize("version, size", [("v1", 32000), ("v2", 32768), ("v3", 32768)])
def test_vocabulary_sizes_and_special_ids(version, size):
    tokenizer = OURS[version]
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (size, 1, 2)
    assert f"{size}" in repr(tokenizer) and version in repr(tokenizer)


@pytest.mark.parametrize("version, found", [("v1", "v1"), ("v2", "v3"), ("v3", "v3")])
def test_a_file_alone_tells_its_template(version, found):
    """v2 and v3 encode the same chats to the same ids, so that either name will do."""
    tokenizer = Tokenizer(OURS[version].path)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert tokenizer.version == found
    assert tokenizer.encode_chat(messages) == OURS[version].encode_chat(messages)


# --- text ------------------------------------------------------------------------------------------------------------


def test_hello_world():
    assert OURS["v1"].encode("Hello world") == [22557, 1526]
    assert OURS["v1"].encode("Hello world", bos=True, eos=True) == [1, 22557, 1526, 2]
    assert OURS["v1"].pieces([22557, 1526]) == ["▁Hello", "▁world"]


@pytest.mark.parametrize("version", VERSIONS)
def test_texts_encode_and_decode_as_mistral_common_does(version):
    pick, theirs = random.Random(1), THEIRS[version].instruct_tokenizer.tokenizer
    for text in AWKWARD + [random_text(pick) for _ in range(150)]:
        ids = OURS[version].encode(text, bos=True)
        assert ids == theirs.encode(text, bos=True, eos=False), text
        assert OURS[version].decode(ids) == theirs.decode(ids) == text.replace("▁", " "), text  # it spells spaces so


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("text", ["</s>", "<s>", "[INST]", "<unk>"])
def test_text_that_spells_a_control_token_stays_text(version, text):
    ids = OURS[version].encode(text)
    assert not {0, 1, 2, 3, 4} & set(ids)
    assert OURS[version].decode(ids) == text


def test_control_ids_have_no_text():
    assert OURS["v1"].decode([1, 22557, 1526, 2]) == "Hello world"
    assert OURS["v3"].decode([1, 3, *OURS["v3"].encode("Hi"), 4]) == "Hi"


# --- streaming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_streamed_pieces_join_to_the_whole_and_never_show_half_a_character(version):
    tokenizer, pick = OURS[version], random.Random(2)
    for text in AWKWARD + [random_text(pick) for _ in range(150)]:
        ids = tokenizer.encode(text)
        pieces = list(tokenizer.stream(ids))
        assert "".join(pieces) == tokenizer.decode(ids)
        assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces), text


def test_a_stream_continues_a_prompt_with_its_space():
    tokenizer = OURS["v1"]
    prompt, rest = tokenizer.encode("Hello", bos=True), tokenizer.encode("world 👨‍👩‍👧!")
    assert "".join(tokenizer.stream(rest, after=prompt)) == " world 👨‍👩‍👧!"
    assert "".join(tokenizer.stream(rest)) == "world 👨‍👩‍👧!"


def test_a_stream_comes_character_by_character_and_stops_at_eos():
    tokenizer, taken = OURS["v1"], []
    ids = tokenizer.encode("a 👨 b")
    pieces = tokenizer.stream(taken.append(token) or token for token in [*ids, 2, *ids])
    assert next(pieces) == "a" and len(taken) == 1  # nothing waits for the end
    assert "".join(pieces) == " 👨 b"
    assert taken == [*ids, 2]


@pytest.mark.parametrize("ids", [[243], [243, 162, 148], [3 + 0xFF, 28708], [22557, 3 + 0xE2, 22557]])
def test_broken_bytes_still_join_to_what_decode_says(ids):
    """A model may well stop inside a character, or never finish one."""
    assert "".join(OURS["v1"].stream(ids)) == OURS["v1"].decode(ids)
    assert "\ufffd" in OURS["v1"].decode(ids)


def test_generate_as_a_stream_of_text_equals_the_decoded_ids():
    tokenizer = OURS["v1"]
    model = small_model(3, vocab_size=tokenizer.vocab_size)
    model.output.weight[3:259] *= 3  # many lone bytes
    prompt = tokenizer.encode("Once upon", bos=True)
    for seed in range(3):
        options = dict(temperature=1.0, seed=seed)
        new = mm.generate(model, [prompt], 40, eos_id=tokenizer.eos_id, **options).tokens[0]
        assert any("<0x" in piece for piece in tokenizer.pieces(new))
        text = tokenizer.decode(prompt + [token for token in new if token != tokenizer.eos_id])
        assert "Once upon" + "".join(mm.stream(model, tokenizer, "Once upon", 40, **options)) == text


# --- conversations ---------------------------------------------------------------------------------------------------


def test_inst_is_text_in_v1_and_control_ids_later():
    chat = [{"role": "user", "content": "Hi"}]
    v1 = OURS["v1"].encode_chat(chat)
    assert v1[:4] == [1, 733, 16289, 28793] and v1[-4:] == [733, 28748, 16289, 28793]
    for version in ("v2", "v3"):
        ids = OURS[version].encode_chat(chat)
        assert ids[:2] == [1, 3] and ids[-1] == 4


def test_the_system_text_goes_into_the_first_user_turn_of_v1_and_the_last_of_v3():
    chat = [{"role": role, "content": text} for role, text in
            (("system", "Rule"), ("user", "One"), ("assistant", "Two"), ("user", "Three"))]  # fmt: skip
    assert "Rule\n\nOne" in OURS["v1"].decode(OURS["v1"].encode_chat(chat))
    assert "Rule\n\nThree" in OURS["v3"].decode(OURS["v3"].encode_chat(chat))


@pytest.mark.parametrize("version", VERSIONS)
def test_random_conversations_encode_as_mistral_common_does_or_both_refuse(version):
    pick, encoded, refused = random.Random(3), 0, 0
    for _ in range(500):
        messages = random_conversation(pick)
        theirs = as_mistral_common(version, messages)
        if theirs is None:
            refused += 1
            with pytest.raises(TokenizerError):
                OURS[version].encode_chat(messages)
        else:
            encoded += 1
            assert OURS[version].encode_chat(messages) == theirs, messages
    assert encoded > 200 and refused > 60  # the test means something only if both happen


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("text", AWKWARD)
def test_each_awkward_text_in_every_role(version, text):
    roles = ("system", "user", "assistant", "user")
    for place in range(4):
        messages = [{"role": role, "content": text if n == place else "Yes"} for n, role in enumerate(roles)]
        theirs = as_mistral_common(version, messages)
        if theirs is None:
            with pytest.raises(TokenizerError):
                OURS[version].encode_chat(messages)
        else:
            assert OURS[version].encode_chat(messages) == theirs


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages, words",
    [
        ([], "conversation is empty"),
        (None, "conversation is empty"),
        ("Hello", "conversation is empty"),
        ([{"role": "tool", "content": "x"}], "message 0 has the role 'tool'; expected one of system, user, assistant"),
        ([{"content": "x"}], "message 0 has the role None"),
        (["Hello"], "message 0 has the role 'Hello'"),
        ([{"role": "user", "content": "x"}, {"role": "user"}], "message 1 has NoneType as content"),
        ([{"role": "user", "content": ["x"]}], "message 0 has list as content"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "last word must be the user's"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}], "message 1, the assistant's, is em"),
    ],
)
def test_conversations_that_no_template_holds_are_named(messages, words):
    for tokenizer in OURS.values():
        with pytest.raises(TokenizerError, match=words):
            tokenizer.encode_chat(messages)


@pytest.mark.parametrize("text", [None, 5, b"Hello", ["Hello"]])
def test_only_strings_are_encoded(text):
    with pytest.raises(TokenizerError, match=f"given {type(text).__name__}; expected a string"):
        OURS["v1"].encode(text)


@pytest.mark.parametrize("token", [-1, 32000, 2.0, "a", None])
def test_ids_the_vocabulary_does_not_have_are_named(token):
    for use in (OURS["v1"].decode, OURS["v1"].pieces):
        with pytest.raises(TokenizerError, match="is no id; this vocabulary's are .* from 0 to 31999") as error:
            use([22557, token])
        assert repr(token) in str(error.value)


def test_files_that_are_no_tokenizer_are_named(tmp_path):
    with pytest.raises(TokenizerError, match="tokenizer.model is not a file"):
        Tokenizer(tmp_path / "tokenizer.model")
    with pytest.raises(TokenizerError, match=f"{tmp_path} is not a file"):
        Tokenizer(tmp_path)
    garbage = tmp_path / "garbage.model"
    for contents in (b"", b"not a model", OURS["v1"].path.read_bytes()[:1000]):
        garbage.write_bytes(contents)
        with pytest.raises(TokenizerError, match="garbage.model is not a SentencePiece model"):
            Tokenizer(garbage)


def test_unknown_versions_are_refused():
    for make in (Tokenizer.from_version, lambda version: Tokenizer(OURS["v1"].path, version)):
        with pytest.raises(TokenizerError, match="'v9'; expected one of v1, v2, v3"):
            make("v9")
    with pytest.raises(TokenizerError, match=r"no \[INST\] control id, which the v3 template needs; use version='v1'"):
        Tokenizer(OURS["v1"].path, "v3")
