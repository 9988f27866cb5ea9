"""Reading configurations: both file formats, every absent key, and what no model can have."""

import json
import re
import warnings

import pytest
import torch
from transformers import MistralConfig as HFConfig

import minimistral as mm
from minimistral import ConfigError, MistralConfig
from minimistral.writing import hf_config

SIZES = dict(dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128, hidden_dim=14336, vocab_size=32000)
PARAMS = SIZES | dict(norm_eps=1e-5)  # as 7B v0.1 came: no rope_theta
HF = dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
          intermediate_size=14336, vocab_size=32000, rms_norm_eps=1e-5, hidden_act="silu", model_type="mistral",
          max_position_embeddings=32768, tie_word_embeddings=False)  # fmt: skip
SMALL = dict(dim=8, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=2, hidden_dim=16, vocab_size=32)


def read(tmp_path, fields, name="config.json"):
    path = tmp_path / name
    path.write_text(fields if isinstance(fields, str) else json.dumps(fields))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MistralConfig.from_file(path)


# --- what the two kinds of file mean ---------------------------------------------------------------------------------


def test_the_three_releases_read_alike_from_either_format(tmp_path):
    v02, v03 = dict(rope_theta=1e6), dict(rope_theta=1e6, vocab_size=32768)
    releases = [
        (PARAMS | dict(sliding_window=4096), HF | dict(rope_theta=10000.0, sliding_window=4096)),  # v0.1
        (PARAMS | v02, HF | v02 | dict(sliding_window=None)),
        (PARAMS | v03, HF | v03 | dict(sliding_window=None)),
    ]
    expected = [(1e4, 4096, 32000), (1e6, None, 32000), (1e6, None, 32768)]
    for (params, hf), (theta, window, vocab_size) in zip(releases, expected, strict=True):
        sizes = SIZES | dict(vocab_size=vocab_size)
        want = MistralConfig(**sizes, norm_eps=1e-5, rope_theta=theta, sliding_window=window)
        assert read(tmp_path, params, "params.json") == read(tmp_path, hf) == want


@pytest.mark.parametrize(
    "present, theta, window",
    [
        (dict(sliding_window=4096), 1e4, 4096),  # 7B v0.1's own file; read with 1e6 it is silently another model
        (dict(), 1e6, None),
        (dict(sliding_window=None), 1e6, None),
        (dict(rope_theta=5e5), 5e5, None),
        (dict(rope_theta=5e5, sliding_window=7), 5e5, 7),
    ],
)
def test_params_json_with_absent_keys(tmp_path, present, theta, window):
    config = read(tmp_path, PARAMS | present, "params.json")
    assert (config.rope_theta, config.sliding_window) == (theta, window)


@pytest.mark.parametrize(
    "present, theta, window",
    [
        (dict(), 1e4, 4096),  # what the class of transformers takes
        (dict(sliding_window=None), 1e4, None),
        (dict(rope_theta=1e6, sliding_window=5), 1e6, 5),
        (dict(rope_parameters=dict(rope_theta=1e6, rope_type="default")), 1e6, 4096),
        (dict(rope_parameters=None, rope_scaling=None, rope_theta=3e4), 3e4, 4096),
    ],
)
def test_config_json_with_absent_keys(tmp_path, present, theta, window):
    config = read(tmp_path, HF | present)
    assert (config.rope_theta, config.sliding_window) == (theta, window)


@pytest.mark.parametrize("window", [None, 5])
def test_a_config_json_written_by_transformers_today_means_the_same_here(tmp_path, window):
    theirs = HFConfig(hidden_size=64, num_attention_heads=16, head_dim=6, intermediate_size=48, num_hidden_layers=3,
                      vocab_size=99, rope_parameters=dict(rope_theta=12345.0), sliding_window=window)  # fmt: skip
    theirs.save_pretrained(tmp_path)
    assert "rope_theta" not in json.loads((tmp_path / "config.json").read_text())  # it is inside rope_parameters
    assert MistralConfig.from_file(tmp_path / "config.json") == MistralConfig(
        dim=64, n_layers=3, n_heads=16, n_kv_heads=8, head_dim=6, hidden_dim=48, vocab_size=99, norm_eps=1e-6,
        rope_theta=12345.0, sliding_window=window,
    )  # fmt: skip


@pytest.mark.parametrize("absent", ["num_key_value_heads", "rms_norm_eps", "sliding_window", "rope_theta", "head_dim"])
def test_keys_absent_from_config_json_mean_what_transformers_takes(tmp_path, absent):
    fields = HF | dict(hidden_size=256, num_attention_heads=16, head_dim=10, rope_theta=7e5, sliding_window=3)
    del fields[absent]
    theirs, ours = HFConfig.from_dict(dict(fields)), read(tmp_path, fields)
    assert ours.n_kv_heads == theirs.num_key_value_heads
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.sliding_window == theirs.sliding_window
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.head_dim == theirs.head_dim


def test_head_dim_null_and_n_kv_heads_null_are_derived(tmp_path):
    config = read(tmp_path, HF | dict(head_dim=None, num_key_value_heads=None))
    assert (config.head_dim, config.n_kv_heads) == (128, 32)


def test_an_absent_rope_theta_is_said(tmp_path):
    for name, fields, theta in (("params.json", PARAMS, "1e\\+06"), ("config.json", HF, "10000")):
        path = tmp_path / name
        path.write_text(json.dumps(fields))
        with pytest.warns(UserWarning, match=f"{name} has no rope_theta: took {theta}"):
            MistralConfig.from_file(path)


def test_unknown_keys_of_params_json_are_named(tmp_path):
    path = tmp_path / "params.json"
    path.write_text(json.dumps(PARAMS | dict(rope_theta=1e4, moe={"num_experts": 8})))
    with pytest.warns(UserWarning, match="params.json: ignored unknown keys moe"):
        MistralConfig.from_file(path)


@pytest.mark.parametrize(
    "said", [{"_sliding_window": [None, 128]}, {"_sliding_window": None}, {"sliding_window": 8, "local_window": 4}]
)
def test_windows_under_another_name_are_refused_not_left_out(tmp_path, said):
    path = tmp_path / "params.json"
    path.write_text(json.dumps(PARAMS | dict(rope_theta=1e4) | said))
    name, value = list(said.items())[-1]
    words = re.escape(f"params.json: {name} is {value!r}, which is not read: state sliding_window instead")
    with pytest.raises(ConfigError, match=words):
        MistralConfig.from_file(path)


def test_the_window_keys_that_transformers_leaves_out_for_mistral_are_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(HF | dict(rope_theta=1e4, sliding_window=8, use_sliding_window=False, max_window_layers=1)))
    with pytest.warns(UserWarning, match="config.json: ignored unknown keys max_window_layers, use_sliding_window"):
        assert MistralConfig.from_file(path).sliding_window == 8


def test_unknown_keys_of_config_json_are_named_and_those_of_every_config_are_not(tmp_path):
    always = dict(architectures=["MistralForCausalLM"], attention_dropout=0.0, bos_token_id=1, eos_token_id=2, pad_token_id=None,
                  initializer_range=0.02, torch_dtype="bfloat16", dtype="bfloat16", transformers_version="4.34.0", use_cache=True,
                  rope_theta=1e4, rope_scaling=None, _name_or_path="mistralai/Mistral-7B-v0.1")  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(HF | always))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MistralConfig.from_file(path)
    path.write_text(json.dumps(HF | always | dict(quantization_config={"bits": 4}, attention_bias=True)))
    with pytest.warns(UserWarning, match="config.json: ignored unknown keys attention_bias, quantization_config") as seen:
        MistralConfig.from_file(path)
    assert len(seen) == 1 and seen[0].filename == __file__


def test_transformers_and_export_write_no_key_that_is_unknown(tmp_path):
    for theirs in (HFConfig(), HFConfig(architectures=["MistralForCausalLM"], dtype="bfloat16", sliding_window=None)):
        theirs.save_pretrained(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            config = MistralConfig.from_file(tmp_path / "config.json")
            (tmp_path / "again.json").write_text(json.dumps(hf_config(config, "bfloat16")))
            assert MistralConfig.from_file(tmp_path / "again.json") == config


@pytest.mark.parametrize("window", [None, 4096])
def test_what_is_written_reads_back_the_same_without_a_warning(tmp_path, window):
    config = MistralConfig(**SIZES, norm_eps=3e-6, rope_theta=1e4, sliding_window=window)
    path = tmp_path / "params.json"
    path.write_text(json.dumps(config.to_params()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert MistralConfig.from_file(path) == config


@pytest.mark.parametrize(
    "changes, parameters",
    [
        (dict(), 7_241_732_096),  # "7.3B"
        (dict(vocab_size=32768), 7_248_023_552),  # v0.3
        (dict(n_kv_heads=32), 8_047_038_464),  # every query head with a key head of its own
        (dict(n_kv_heads=1), 7_006_851_072),
    ],
)
def test_parameters_of_the_7b(changes, parameters):
    with torch.device("meta"):
        model = mm.Mistral(MistralConfig(**SIZES | changes))
    assert model.n_parameters() == parameters
    assert len(model.state_dict()) == 291


def test_a_config_cannot_be_changed_and_knows_its_group():
    config = MistralConfig(**SIZES)
    assert config.group == 4
    with pytest.raises(AttributeError):
        config.sliding_window = 3


# --- what no model can have ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "4", None])
@pytest.mark.parametrize("field", SMALL)
def test_a_size_must_be_a_whole_number_of_at_least_one(field, value):
    with pytest.raises(ConfigError, match=f"{field} is ") as error:
        MistralConfig(**SMALL | {field: value})
    assert repr(value) in str(error.value) and "at least 1" in str(error.value)


@pytest.mark.parametrize("value", [0, -1, True, False, 4.0, "4", {4096}])
def test_a_window_must_be_none_or_a_whole_number_of_at_least_one(value):
    with pytest.raises(ConfigError, match="sliding_window is ") as error:
        MistralConfig(**SMALL, sliding_window=value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [0, -1e-5, True, "1e4", None, float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["norm_eps", "rope_theta"])
def test_eps_and_theta_must_be_finite_and_positive(field, value):
    with pytest.raises(ConfigError, match=f"{field} is ") as error:
        MistralConfig(**SMALL | {field: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(n_heads=4, n_kv_heads=3), "n_heads is 4 and n_kv_heads is 3"),
        (dict(n_heads=2, n_kv_heads=4), "n_heads is 2 and n_kv_heads is 4"),
        (dict(head_dim=3), "head_dim is 3.*even"),
    ],
)
def test_sizes_must_fit_together(changes, words):
    with pytest.raises(ConfigError, match=words):
        MistralConfig(**SMALL | changes)


@pytest.mark.parametrize(
    "contents, words",
    [
        ("", "is not JSON"),
        ('{"dim": 4096,', "is not JSON"),
        ("[1, 2]", "holds a list"),
        ("null", "holds a NoneType"),
        ("{}", r"lacks dim \(in config.json: hidden_size\)"),
        (HF | dict(hidden_size="4096"), "dim is '4096'"),
        (HF | dict(num_attention_heads=0), "n_heads is 0"),
        (HF | dict(num_attention_heads=None), "n_heads is None"),
        (HF | dict(sliding_window=0), "sliding_window is 0"),
        (HF | dict(sliding_window=True), "sliding_window is True"),
        (HF | dict(model_type="llama"), "'llama'"),
        (HF | dict(hidden_act="gelu"), "'gelu'"),
        (HF | dict(tie_word_embeddings=True), "tie_word_embeddings"),
        (HF | dict(rope_scaling=dict(type="linear", factor=2.0)), "scaled rotary"),
        (HF | dict(rope_parameters=dict(rope_theta=1e4, rope_type="yarn")), "scaled rotary"),
        (HF | dict(rope_parameters=[1e4]), "rope_parameters"),
        (HF | dict(rope_theta="1e6"), "rope_theta is '1e6'"),
        (HF | dict(rms_norm_eps=None), "norm_eps is None"),
        (PARAMS | dict(n_layers=None), "n_layers is None"),
        (PARAMS | dict(rope_theta=None), "rope_theta is None"),
        (PARAMS | dict(sliding_window=[4096] * 31), "sliding_window lists 31 windows and n_layers is 32"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, contents, words):
    with pytest.raises(ConfigError, match=words) as error:
        read(tmp_path, contents)
    assert str(tmp_path / "config.json") in str(error.value)


@pytest.mark.parametrize("field", sorted(set(SIZES)))
def test_a_missing_size_of_params_json_is_named(tmp_path, field):
    with pytest.raises(ConfigError, match=f"lacks {field}"):
        read(tmp_path, {name: value for name, value in PARAMS.items() if name != field}, "params.json")


@pytest.mark.parametrize("field", ["num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"])
def test_a_missing_size_of_config_json_is_named(tmp_path, field):
    with pytest.raises(ConfigError, match=f"lacks .*in config.json: {field}"):
        read(tmp_path, {name: value for name, value in HF.items() if name != field})


def test_a_path_that_is_no_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="params.json does not exist"):
        MistralConfig.from_file(tmp_path / "params.json")
    with pytest.raises(ConfigError, match=f"{tmp_path} cannot be read"):
        MistralConfig.from_file(tmp_path)


def test_a_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="config.json is not JSON"):
        MistralConfig.from_file(path)


@pytest.mark.parametrize("window, theta", [([None] * 2, 1e6), ([8, None], 1e4), ([8, 8], 1e4)])
def test_the_theta_of_a_list_of_windows_without_one(tmp_path, window, theta):
    """A list of nothing but null is no window, as one null is."""
    fields = {"dim": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "head_dim": 4, "hidden_dim": 8, "vocab_size": 9}
    (tmp_path / "params.json").write_text(json.dumps(fields | {"sliding_window": window}))
    with pytest.warns(UserWarning, match="no window" if theta == 1e6 else "a window"):
        assert MistralConfig.from_file(tmp_path / "params.json").rope_theta == theta
