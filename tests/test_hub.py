"""Downloading, against a small hub on loopback that serves as the real one does, and lies, refuses and breaks off on demand."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from helpers import largest_difference, random_ids, small_model

import minimistral as mm
from minimistral import hub
from minimistral.cli import main

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "somebody/Small-Mistral"


class SmallHub(ThreadingHTTPServer):
    """/api/models/... lists; /OWNER/NAME/resolve/... redirects large files to another host, as the real hub does."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}  # name -> bytes
        self.listed = {}  # name -> a size that is not true
        self.served = {}  # name -> bytes that are not those
        self.cut = {}  # name -> how many bytes of a request are served before the connection breaks, or a list for each time
        self.answers = {}  # "api" or name -> (status, X-Error-Code)
        self.ranges = True  # whether Range is understood
        self.slow = 0.0  # seconds before each block
        self.requests = []
        self.got = Counter()  # name -> bytes sent
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def listing(self):
        siblings = []
        for name, data in self.files.items():
            size = self.listed.get(name, len(data))
            entry = {"rfilename": name, "size": size, "blobId": hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()}
            if large(name):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
            siblings.append(entry)
        return {"id": REPO, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": siblings}

    def fetched(self):
        """Names of the files that were asked for, the index and tokenizer among them."""
        return {path.rsplit("/", 1)[1] for _, path, _ in self.requests if "/resolve/" in path}


def large(name):
    return name.endswith((".safetensors", ".model", ".pth"))


Asked = namedtuple("Asked", "host path headers")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        hub = self.server
        path = self.path.partition("?")[0]
        hub.requests.append(Asked(self.headers["Host"].split(":")[0], path, dict(self.headers)))
        name = path.rsplit("/", 1)[1]
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        if (fault := hub.answers.get("api" if api else name)) and not (api and path.endswith("agent-harnesses")):
            return self.error(*fault)
        if api:
            if api[1] != REPO:
                return self.error(401 if "token" not in hub.answers else 404, "RepoNotFound")
            if api[2] not in (None, "main", "v2", COMMIT):
                return self.error(404, "RevisionNotFound")
            return self.answer(200, json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"})
        if path.startswith(f"/{REPO}/resolve/{COMMIT}/") and name in hub.files:
            if large(name):
                return self.answer(302, b"", {"Location": f"http://localhost:{hub.server_port}/cdn/{name}"})
            return self.file(name)
        if path.startswith("/cdn/"):
            return self.file(name)
        return self.error(404, "EntryNotFound")

    def file(self, name):
        data = self.server.served.get(name, self.server.files[name])
        start, status, headers = 0, 200, {"Accept-Ranges": "bytes"}
        if (wanted := self.headers.get("Range")) and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.server.cut.get(name)
        if isinstance(cut, list):
            cut = cut.pop(0) if cut else None
        self.answer(status, data[start:], headers, name, cut)

    def answer(self, status, body, headers, name="", cut=None):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[:cut] if cut is not None else body
        for start in range(0, len(body), 4096):
            if self.server.slow and name:
                time.sleep(self.server.slow)
            self.wfile.write(body[start : start + 4096])
            self.server.got[name] += len(body[start : start + 4096])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)

    def error(self, status, code):
        self.answer(status, b"{}", {"X-Error-Code": code} if code else {})


# --- what stands on the hub --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return small_model(5, vocab_size=512, dim=64, head_dim=8)


@pytest.fixture(scope="module")
def native(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    mm.save(model, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def shards(model, tmp_path_factory):
    """The same model in Hugging Face's format, in shards."""
    folder = tmp_path_factory.mktemp("hf")
    mm.checkpoint.export(model, folder, shards=3)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def small_hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    server = SmallHub()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # what a broken connection may cost; else 10 MiB
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.01)))  # between their retries
    yield server
    server.shutdown()
    server.server_close()


def refused(*args, **options):
    with pytest.raises(hub.HubError) as caught:
        hub.download(*args, **options)
    return str(caught.value)


def models_in(folder):
    """Names of what a loader might take for a model."""
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.exists() else []


# --- what is downloaded ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_what_was_downloaded_opens_and_is_the_model(small_hub, native, model, tmp_path):
    small_hub.files = native | {"README.md": b"read me", "pytorch_model.bin": b"a pickle"}
    folder = hub.download(REPO, tmp_path / "new" / "folder")
    assert models_in(folder) == ["consolidated.safetensors", "params.json"] and not (folder / ".download").exists()
    assert small_hub.fetched() == {"consolidated.safetensors", "params.json"}
    again, tokenizer = mm.load(folder, device="cpu")
    tokens = random_ids(1, 23, vocab_size=512)  # beyond the window of 5
    assert tokenizer is None and torch.equal(again(tokens), model(tokens))


@torch.no_grad()
@pytest.mark.parametrize("format", ["native", "hf", None])
def test_of_two_formats_only_one_is_fetched(small_hub, native, shards, model, tmp_path, format):
    small_hub.files = native | shards | {"model-00009-of-00009.safetensors": b"left over from another upload"}
    folder = hub.download(REPO, tmp_path / "to", format=format)
    if format == "hf":
        assert set(models_in(folder)) == set(shards)
        assert len(list(folder.glob("model-*.safetensors"))) > 2
    else:
        assert set(models_in(folder)) == set(native)
    assert small_hub.fetched() == set(models_in(folder))
    again, _ = mm.load(folder, device="cpu")
    tokens = random_ids(1, 23, vocab_size=512)
    assert largest_difference(again(tokens), model(tokens)) == 0


def test_a_single_hf_file_and_the_tokenizer(small_hub, native, shards, tmp_path):
    small_hub.files = {"config.json": shards["config.json"], "model.safetensors": b"weights", "tokenizer.model.v3": b"3",
                       "tokenizer.model": b"t", "tokenizer.json": b"{}"}  # fmt: skip
    assert models_in(hub.download(REPO, tmp_path / "a")) == ["config.json", "model.safetensors", "tokenizer.model"]
    small_hub.files = native | {"tokenizer.model.v3": b"3"}
    assert "tokenizer.model.v3" in models_in(hub.download(REPO, tmp_path / "b"))


def test_the_original_pth_is_fetched_where_there_is_nothing_else(small_hub, native, tmp_path):
    small_hub.files = {"params.json": native["params.json"], "consolidated.00.pth": b"weights"}
    assert models_in(hub.download(REPO, tmp_path / "a")) == ["consolidated.00.pth", "params.json"]


def test_short_names_and_the_default_folder(small_hub, native, tmp_path, monkeypatch):
    small_hub.files = native
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(hub.VERSIONS, "v0.1", REPO)
    assert main(["download", "v0.1", "--revision", "v2", "--format", "native"]) == 0
    assert models_in(tmp_path / "models" / "Small-Mistral") == sorted(native)
    assert any(asked.path.endswith(f"{REPO}/revision/v2") for asked in small_hub.requests)
    assert set(hub.VERSIONS) == {f"v0.{n}{tail}" for n in (1, 2, 3) for tail in ("", "-instruct")}


# --- resumed -----------------------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_off_is_taken_up_again(small_hub, native, tmp_path):
    size = len(native["consolidated.safetensors"])
    small_hub.files, small_hub.cut = native, {"consolidated.safetensors": [12 * 4096, 7 * 4096, 0]}
    folder = hub.download(REPO, tmp_path)
    assert (folder / "consolidated.safetensors").read_bytes() == native["consolidated.safetensors"]
    assert small_hub.got["consolidated.safetensors"] == size  # no byte twice


def test_what_came_before_an_interruption_is_not_fetched_again(small_hub, native, tmp_path):
    size = len(native["consolidated.safetensors"])
    small_hub.files, small_hub.cut = native, {"consolidated.safetensors": [24 * 4096, *[0] * 20]}
    said = refused(REPO, tmp_path)
    assert "cannot be reached" in said and "the same command goes on from there" in said
    assert models_in(tmp_path) == []  # nothing that looks like a model
    with pytest.raises(mm.CheckpointError, match="holds no model"):
        mm.load(tmp_path)
    small_hub.cut = {}
    hub.download(REPO, tmp_path)
    assert small_hub.got["consolidated.safetensors"] == size
    assert small_hub.requests[-1].headers["Range"] == f"bytes={24 * 4096}-"
    assert models_in(tmp_path) == sorted(native) and mm.load(tmp_path, device="cpu")


def test_a_server_that_ignores_ranges_sends_everything_again(small_hub, native, tmp_path):
    small_hub.files, small_hub.cut = native, {"consolidated.safetensors": [24 * 4096, *[0] * 20]}
    refused(REPO, tmp_path)
    small_hub.cut, small_hub.ranges = {}, False
    hub.download(REPO, tmp_path)
    assert (tmp_path / "consolidated.safetensors").read_bytes() == native["consolidated.safetensors"]


def test_a_file_that_changed_on_the_hub_does_not_go_on_from_the_old_part(small_hub, native, tmp_path):
    small_hub.files, small_hub.cut = native, {"consolidated.safetensors": [24 * 4096, *[0] * 20]}
    refused(REPO, tmp_path)
    other = bytearray(native["consolidated.safetensors"])
    other[50_000:50_004] = b"new!"
    small_hub.cut, small_hub.files = {}, native | {"consolidated.safetensors": bytes(other)}
    hub.download(REPO, tmp_path)
    assert (tmp_path / "consolidated.safetensors").read_bytes() == other


def test_a_second_call_fetches_nothing_and_mends_what_was_damaged(small_hub, native, tmp_path):
    small_hub.files = native
    hub.download(REPO, tmp_path)
    before = dict(small_hub.got)
    hub.download(REPO, tmp_path)
    assert {name: small_hub.got[name] for name in native} == {name: before[name] for name in native}
    path = tmp_path / "consolidated.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    hub.download(REPO, tmp_path)
    assert path.read_bytes() == native["consolidated.safetensors"]


def test_ctrl_c_on_the_command_line_then_again(small_hub, native, tmp_path):
    small_hub.files, small_hub.slow = native, 0.05
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": small_hub.url, "HF_HOME": str(tmp_path / "home"),
                                "NO_PROXY": "*", "PYTHONUNBUFFERED": "1"}  # fmt: skip
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 4096;"
        "from minimistral.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "download", REPO, "--to", str(tmp_path / "to")]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while small_hub.got["consolidated.safetensors"] < 40_000 and time.monotonic() < deadline and first.poll() is None:
        threading.Event().wait(0.02)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130 and "goes on where it stopped" in said, said
    assert "Traceback" not in said
    assert models_in(tmp_path / "to") == []
    small_hub.slow = 0
    kept = sum(path.stat().st_size for path in (tmp_path / "to" / ".download").glob("consolidated*"))
    assert kept > 0
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    assert small_hub.requests[-1].headers["Range"] == f"bytes={kept}-"
    assert "minimistral doctor" in second.stdout and mm.load(tmp_path / "to", device="cpu")


# --- a hub that lies or refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-5, 5])
def test_a_size_that_is_not_true(small_hub, native, tmp_path, size):
    small_hub.files = native
    small_hub.listed = {"consolidated.safetensors": len(native["consolidated.safetensors"]) + size}
    assert "consolidated.safetensors came with another size than the hub promises" in refused(REPO, tmp_path).lower()
    assert models_in(tmp_path) == []


@pytest.mark.parametrize("name", ["consolidated.safetensors", "params.json"])
def test_a_content_that_is_not_what_was_promised(small_hub, native, tmp_path, name):
    small_hub.files, small_hub.served = native, {name: native[name][:-2] + b"??"}
    said = refused(REPO, tmp_path)
    assert f"{name} arrived with another content" in said and "run the same command again" in said
    assert models_in(tmp_path) == [] and not list((tmp_path / ".download").glob(f"{name}*"))
    small_hub.served = {}
    assert mm.load(hub.download(REPO, tmp_path), device="cpu")


@pytest.mark.parametrize(("where", "status", "code"), [
    ("consolidated.safetensors", 403, "GatedRepo"), ("params.json", 401, "GatedRepo"), ("api", 401, None), ("api", 403, None),
])  # fmt: skip
def test_a_gated_model_explains_the_token(small_hub, native, tmp_path, where, status, code):
    small_hub.files, small_hub.answers = native, {where: (status, code)}
    said = refused(REPO, tmp_path)
    assert str(status) in said and "HF_TOKEN" in said and "hf auth login" in said and f"{small_hub.url}/{REPO}" in said
    assert models_in(tmp_path) == []


def test_the_token_goes_to_the_hub_and_nowhere_else(small_hub, native, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    small_hub.files = native
    hub.download(REPO, tmp_path)
    told = {asked.host: {key.lower(): value for key, value in asked.headers.items()}.get("authorization")
            for asked in small_hub.requests}  # fmt: skip
    assert told == {"127.0.0.1": "Bearer hf_secret", "localhost": None}


def test_what_does_not_exist_is_said(small_hub, native, tmp_path):
    small_hub.files = native
    assert "no revision 'v9'" in refused(REPO, tmp_path, revision="v9")
    said = refused("somebody/else", tmp_path)
    assert "401" in said and "it does not exist, or it wants to know who you are" in said
    small_hub.answers = {"api": (404, "RepoNotFound")}
    assert "not found" in refused("somebody/else", tmp_path) and "check the name" in refused("somebody/else", tmp_path)
    small_hub.answers = {"api": (503, None)}
    assert "503" in refused(REPO, tmp_path) and "later" in refused(REPO, tmp_path)


def test_a_hub_that_is_not_there_or_not_allowed(small_hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    said = refused(REPO, tmp_path / "x")
    assert "The hub at http://127.0.0.1:9 cannot be reached" in said and not (tmp_path / "x").exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(REPO, tmp_path / "x")


def test_a_repository_without_a_model(small_hub, native, shards, tmp_path):
    small_hub.files = {"pytorch_model.bin": b"", "config.json": b"{}"}
    assert "no model that this library reads: it has config.json, pytorch_model.bin" in refused(REPO, tmp_path)
    small_hub.files = native
    said = refused(REPO, tmp_path, format="hf")
    assert "no model in the hf format" in said and "native" in said
    small_hub.files = {}
    assert "nothing" in refused(REPO, tmp_path)


@pytest.mark.parametrize("index", [b"{", b"[]", b'{"weight_map": 3}', b'{"weight_map": {"a": "../../bad.safetensors"}}',
                                   b'{"weight_map": {"a": "model-00007-of-00002.safetensors"}}'])  # fmt: skip
def test_an_index_that_is_none_or_names_what_is_not_there(small_hub, shards, tmp_path, index):
    small_hub.files = shards | {hub.INDEX: index}
    said = refused(REPO, tmp_path / "to")
    reasons = "cannot be read as an index", "named without a path", "which the repository does not hold"
    assert any(words in said for words in reasons)
    assert models_in(tmp_path / "to") == [] and not (tmp_path / "bad.safetensors").exists()


# --- before the first byte ---------------------------------------------------------------------------------------------


def test_a_disk_without_room_is_said_with_numbers(small_hub, native, tmp_path, monkeypatch):
    monkeypatch.setattr(hub.room, "disk", lambda folder: 3 * 2**30)
    small_hub.files, small_hub.listed = native, {"consolidated.safetensors": 14_496_078_512}
    said = refused(REPO, tmp_path / "to")
    assert "needs 13.50 GiB" in said and "has 3.00 GiB free" in said and small_hub.fetched() == set()


def test_what_lies_there_in_part_counts_as_room(small_hub, native, tmp_path, monkeypatch):
    small_hub.files, small_hub.cut = native, {"consolidated.safetensors": [24 * 4096, *[0] * 20]}
    refused(REPO, tmp_path)
    there = sum(path.stat().st_size for path in (tmp_path / ".download").iterdir())
    free = sum(map(len, native.values())) - there
    assert there > 24 * 4096
    small_hub.cut = {}
    monkeypatch.setattr(hub.room, "disk", lambda folder: free - 1)
    assert "bytes) more, and its disk has" in refused(REPO, tmp_path)
    monkeypatch.setattr(hub.room, "disk", lambda folder: free)
    hub.download(REPO, tmp_path)


def test_a_folder_with_another_model_is_left_alone(small_hub, native, shards, tmp_path):
    small_hub.files = native | shards
    (tmp_path / "params.json").write_text("{}")
    assert "holds another model (params.json): give a new folder with --to" in refused(REPO, tmp_path)
    (tmp_path / "params.json").unlink()
    (tmp_path / "config.json").write_text("{}")
    assert "holds another model (config.json)" in refused(REPO, tmp_path)
    assert small_hub.fetched() == set() and models_in(tmp_path) == ["config.json"]


def test_one_download_a_folder_at_a_time(small_hub, native, tmp_path):
    small_hub.files = native
    with hub._lock(tmp_path):
        assert "another download" in refused(REPO, tmp_path)
    hub.download(REPO, tmp_path)


@pytest.mark.parametrize("name", ["", "v0.4", "Mistral-7B", "a/b/c", "a/", "/b", "https://hf.co/a/b", "../x", "a/..", "a b/c"])
def test_names_that_are_none(name, tmp_path):
    assert "is neither OWNER/NAME on the hub nor one of v0.1" in refused(name, tmp_path)


def test_wrong_options_and_places(small_hub, native, tmp_path, capsys):
    small_hub.files = native
    assert "format is 'both'" in refused(REPO, tmp_path, format="both")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(REPO, tmp_path / "file")
    assert main(["download", REPO, "--to", str(tmp_path / "file" / "below")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("minimistral download: ") and "cannot be written to" in error and error.count("\n") == 1
    assert Path(tmp_path / "file").read_text() == ""
