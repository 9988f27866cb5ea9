"""Chapter 11: the widget's numbers are roofline's, at every place of its sliders; the pictures say what they show."""

import json
import re

import pytest

from minimistral import roofline
from minimistral.counting import VERSIONS
from minimistral.widgets import roofline as view
from minimistral.widgets.picture import Picture
from minimistral.widgets.roofline import BATCHES, GPUS, LENGTHS, WINDOWS, Ceilings

V01 = VERSIONS["v0.1"]


@pytest.fixture(scope="module")
def data():
    return json.loads(re.search(r"const data = (\{.*\}), WIDE = ", Ceilings().html())[1])


def test_every_place_of_the_sliders_is_what_python_says(data):
    for n, N in enumerate(LENGTHS):
        for w, W in enumerate(WINDOWS):
            for b, batch in enumerate(BATCHES):
                bars = data["bars"][n][w][b]
                expected = (
                    roofline.attention_ratio(N, W), roofline.prefill_ratio(V01, N, W), roofline.prefill_ratio(V01, N, W, 0.5),
                    roofline.decode_ratio(V01, N, W, batch),
                )  # fmt: skip
                assert [float(words) for words, _ in bars] == pytest.approx(expected, rel=5e-3)
                assert [2 ** (7 * at) for _, at in bars] == pytest.approx(expected, rel=1e-3)
                assert all(0 <= at <= 1 for _, at in bars)
                for g, gpu in enumerate(GPUS):
                    state = Ceilings(N, W, batch, gpu)
                    filled = [
                        words.replace("{0}", data["full"][n][b][g][k]).replace("{1}", data["near"][n][w][b][g][k])
                        .replace("{2}", data["memory"][g]) for k, words in enumerate(data["words"])
                    ]  # fmt: skip
                    assert filled == state.lines()
                    assert f"{data['titles'][n][w][b]}, {data['gpus'][g]}" == state.title()


def test_the_numbers_of_16k():
    text = Ceilings().text()
    assert [line.split()[-2] for line in text.splitlines()[1:5]] == ["2.29", "1.15", "1.27", "1.11"]
    assert "205 tokens a second with a full cache, 227 with the window" in text
    assert "at least 302 ms with full attention, 262 ms with the window" in text  # (228.7 + 70.4) / 989, (228.7 + 30.8) / 989


def test_what_does_not_fit_says_so():
    assert "83.2 GB (does not fit) with a full cache, 31.7 GB with the window" in Ceilings(batch=32).text()
    assert "16.6 GB (does not fit) with a full cache, 15.0 GB with the window" in Ceilings(gpu="T4 (float16)").text()
    assert "does not fit" not in Ceilings(batch=32, gpu="H200").text()


def test_units():
    assert [view.seconds(x) for x in (0.0123, 0.9, 1, 42.26, 600)] == ["12 ms", "900 ms", "1.0 s", "42.3 s", "10 min"]
    assert [view.times(x) for x in (1, 2.286, 12.72, 128)] == ["1.00", "2.29", "12.7", "128"]
    assert view.place(1) == 0 and view.place(128) == 1 and view.place(2) == pytest.approx(1 / 7)


def test_the_page_is_self_contained_small_and_always_the_same(data):
    state = Ceilings()
    (bundle, told), page = state._repr_mimebundle_(), state.html()
    assert page == Ceilings().html() != Ceilings(batch=2).html()
    assert sum(len(part) for part in bundle.values()) < 150_000
    code = re.sub(r'base64,[^"]*', "", page)
    assert not re.search(r"https?:|//|import |require|fetch|XMLHttp", code)
    assert "CEILINGS_" not in page and page.count("<script>") == page.count("</script>") == 1
    assert page.index("data:image/png;base64,") < page.index("<script>")
    assert data["start"] == [4, 2, 0, 1]
    assert bundle["image/png"].startswith(b"\x89PNG") and bundle["text/plain"] == repr(state) == state.text()
    assert told == {"image/png": {"alt": repr(state)}}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(N=16_000), "N is 16000; this picture has 1024, 2048"),
        (dict(W=100), "W is 100"),
        (dict(batch=True), "batch is True"),
        (dict(gpu="B200"), "gpu is 'B200'; this picture has H200, H100 SXM"),
    ],
)
def test_what_it_does_not_have_is_refused(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Ceilings(**arguments)


def test_the_curves_in_words():
    length, batch = view.over_length(), view.over_batch()
    for picture in (length, batch):
        assert isinstance(picture, Picture) and picture.png.startswith(b"\x89PNG")
    rows = {row.split()[0]: row.split()[1:] for row in length.text.splitlines()[1:]}
    assert rows["16,384"] == ["2.29", "2.64", "1.27", "1.15", "1.11"] and rows["4,096"] == ["1.00"] * 5
    rows = {row.split()[0]: row.split()[1:] for row in batch.text.splitlines()[1:]}
    assert rows["1"][1] == "1.11" and rows["32"][1] == "2.64" and list(rows) == [str(b) for b in BATCHES]


def test_the_race_in_words():
    seconds = {"past": [2.0, 4.0, 2.0], "fast": [1.0, 2.0, 1.0], "slow": [4.0, 8.0, 4.0]}
    picture = view.race(seconds, "past", 2.286)
    assert [line.split()[0] for line in picture.text.splitlines()[:3]] == ["slow", "past", "fast"]
    assert "fast  1.000 s  2.00 times" in picture.text and "slow  4.000 s  0.50 times" in picture.text
    assert "at most 2.29" in picture.text
