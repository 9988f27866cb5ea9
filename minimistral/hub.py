"""Getting a released model from the Hugging Face hub: the files of one format, resumed where they stopped, checked, then laid.

Until every file is whole it lies in FOLDER/.download; only then do all move beside one another, the config last. So a folder
whose download was cut off holds no model that could be taken for one, and the same call goes on where it stopped.
"""

import hashlib
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minimistral import room
from minimistral.checkpoint import CONFIGS, INDEX, TOKENIZERS, read_index
from minimistral.tensorfiles import CheckpointError

#: short name -> repository. Mistral never put the base v0.2 on the hub itself; others converted its published archive
VERSIONS = {
    "v0.1": "mistralai/Mistral-7B-v0.1",
    "v0.2": "mistral-community/Mistral-7B-v0.2",
    "v0.3": "mistralai/Mistral-7B-v0.3",
    "v0.1-instruct": "mistralai/Mistral-7B-Instruct-v0.1",
    "v0.2-instruct": "mistralai/Mistral-7B-Instruct-v0.2",
    "v0.3-instruct": "mistralai/Mistral-7B-Instruct-v0.3",
}
NATIVE_WEIGHTS = ("consolidated.safetensors", "consolidated.00.pth")
UNFINISHED = ".download"


class HubError(ValueError):
    """A download that cannot be done or went wrong; the message says what to do."""


@dataclass(frozen=True)
class _Remote:
    """One file as the hub describes it."""

    name: str
    size: int
    hash: str  # of large files the sha256; of small ones git's own: the sha1 of "blob SIZE", a zero byte and the content

    @property
    def part(self) -> str:
        return f"{self.name}.{self.hash[:16]}.part"  # a file that changed on the hub does not go on from the old one


def download(repository: str, to=None, format: str | None = None, revision: str | None = None, token: str | None = None) -> Path:
    """Download a model of the hub into a folder that minimistral.load opens; return the folder.

    repository  a short name (v0.1, v0.2, v0.3, each also with -instruct) or OWNER/NAME on the hub
    to          the folder; None: models/NAME
    format      "native" or "hf". None: Mistral's own files where the repository has them
    revision    a branch, tag or commit; None: main
    token       None: the one of HF_TOKEN, or of `hf auth login`

    What lies there whole already is not fetched again. Raises HubError, naming what to do.
    """
    if format not in (None, *CONFIGS):
        raise HubError(f"format is {format!r}; expected 'native' or 'hf'.")
    repository = _repository(repository)
    folder = Path(to) if to is not None else Path("models") / repository.split("/")[1]
    if folder.exists() and not folder.is_dir():
        raise HubError(f"{folder} is a file; give a folder, or the name of a new one.")
    commit, there = _listing(repository, revision, token)
    format = _choose_format(repository, there, format)
    _refuse_other_model(folder, there[CONFIGS[format]], format)
    fetch = _Fetch(repository, commit, token, folder)
    with _lock(folder):
        wanted = fetch.wanted(there, format)
        missing = [remote for remote in wanted if not fetch.has(folder / remote.name, remote)]
        fetch.check_space(missing)
        for remote in missing:
            fetch.get(remote)
        for remote in sorted(missing, key=lambda remote: remote.name in CONFIGS.values()):
            os.replace(folder / UNFINISHED / remote.part, folder / remote.name)
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return folder


class _Fetch:
    """Files of one commit on their way into a folder."""

    def __init__(self, repository: str, commit: str, token: str | None, folder: Path):
        self.repository, self.commit, self.token, self.folder = repository, commit, token, folder

    def wanted(self, there: dict[str, _Remote], format: str) -> list[_Remote]:
        """The files of one format, the config first. Of Hugging Face's shards those that the index names."""
        names = [CONFIGS[format]]
        if format == "native":
            names.append(next(name for name in NATIVE_WEIGHTS if name in there))
        elif "model.safetensors" in there:
            names.append("model.safetensors")
        else:
            index = there[INDEX]
            if not self.has(path := self.folder / INDEX, index):
                path = self.get(index)
            try:
                shards = sorted(set(read_index(path)[0].values()))
            except CheckpointError as error:
                raise HubError(f"{INDEX} of {self.repository}: {error}") from None
            if absent := [name for name in shards if name not in there]:
                raise HubError(f"{INDEX} of {self.repository} names {absent[0]!r}, which the repository does not hold.")
            names += [INDEX, *shards]
        names += [name for name in TOKENIZERS if name in there][:1]
        return [there[name] for name in names]

    def has(self, path: Path, remote: _Remote) -> bool:
        return path.is_file() and path.stat().st_size == remote.size and _hash(path, remote) == remote.hash

    def check_space(self, missing: list[_Remote]):
        """Before the first byte: does the rest fit on the disk?"""
        try:
            room.require_disk(self.folder, sum(remote.size - self._done(remote) for remote in missing))
        except ValueError as error:
            raise HubError(f"{error} Or give a folder on another disk with --to.") from None

    def get(self, remote: _Remote) -> Path:
        """Fetch one file, or what is missing of it, into the unfinished folder; return its path there when it is right."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        path = self.folder / UNFINISHED / remote.part
        done = self._done(remote)
        path.parent.mkdir(exist_ok=True)
        url = hf_hub_url(self.repository, remote.name, revision=self.commit, endpoint=_endpoint())
        headers = build_hf_headers(token=self.token, library_name="minimistral") | {"Accept-Encoding": "identity"}
        with path.open("ab" if done else "wb") as stream, _explained(self.repository, None, remote.name):
            http_get(url, stream, resume_size=done, headers=headers, expected_size=remote.size, displayed_filename=remote.name)
        if path.stat().st_size != remote.size or _hash(path, remote) != remote.hash:
            path.unlink()
            raise HubError(
                f"{remote.name} arrived with another content than the hub promises (its hash differs), and was deleted: "
                "run the same command again."
            )
        return path

    def _done(self, remote: _Remote) -> int:
        path = self.folder / UNFINISHED / remote.part
        size = path.stat().st_size if path.is_file() else 0
        return size if size <= remote.size else 0


def _repository(name: str) -> str:
    name = VERSIONS.get(name, name)
    parts = name.split("/")
    if len(parts) != 2 or not all(part and part.strip(".") and part.replace("-", "").replace("_", "").replace(".", "").isalnum()
                                  for part in parts):  # fmt: skip
        raise HubError(f"{name!r} is neither OWNER/NAME on the hub nor one of {', '.join(VERSIONS)}.")
    return name


def _listing(repository: str, revision: str | None, token: str | None) -> tuple[str, dict[str, _Remote]]:
    """The commit that a revision means now, and the files at its top with sizes and hashes."""
    from huggingface_hub import HfApi

    with _explained(repository, revision):
        info = HfApi(endpoint=_endpoint(), token=token).model_info(repository, revision=revision, files_metadata=True, timeout=30)
    files = {}
    for file in info.siblings or []:
        hash = file.lfs.sha256 if file.lfs else file.blob_id
        if "/" not in file.rfilename and file.size is not None and hash:
            files[file.rfilename] = _Remote(file.rfilename, file.size, hash)
    return info.sha, files


def _choose_format(repository: str, there: dict[str, _Remote], format: str | None) -> str:
    weights = {"native": NATIVE_WEIGHTS, "hf": ("model.safetensors", INDEX)}
    held = [name for name in CONFIGS if CONFIGS[name] in there and any(file in there for file in weights[name])]
    if format in held:
        return format
    if format or not held:
        what = f"no model in the {format} format, only in {held[0]}" if held else "no model that this library reads"
        raise HubError(f"{repository} holds {what}: it has {', '.join(sorted(there)[:8]) or 'nothing'}.")
    return held[0]


def _refuse_other_model(folder: Path, config: _Remote, format: str):
    """A folder may hold this very model, half or damaged, and will be mended; another model there is left alone."""
    other, mine = folder / CONFIGS["hf" if format == "native" else "native"], folder / config.name
    for path, wrong in ((other, True), (mine, mine.is_file() and _hash(mine, config) != config.hash)):
        if path.is_file() and wrong:
            raise HubError(f"{folder} holds another model ({path.name}): give a new folder with --to.")


def _hash(path: Path, remote: _Remote) -> str:
    """What the hub would call a file's content."""
    size = path.stat().st_size
    digest = hashlib.sha256() if len(remote.hash) == 64 else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    from tqdm.auto import tqdm

    with path.open("rb") as stream, tqdm(
        total=size, unit="B", unit_scale=True, desc=f"checking {remote.name}", disable=size < 2**28, leave=False
    ) as bar:
        while block := stream.read(2**22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _lock(folder: Path):
    """One download a folder at a time: two would write into the same part."""
    from filelock import FileLock, Timeout

    try:
        (folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
        return FileLock(folder / UNFINISHED / "lock").acquire(timeout=0)
    except Timeout:
        raise HubError(f"another download into {folder} is running; wait for it, or give another folder with --to.") from None
    except OSError as error:
        raise HubError(f"{folder} cannot be written to ({error.strerror}): give another folder with --to.") from None


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


@contextmanager
def _explained(repository: str, revision: str | None, file: str | None = None):
    """Turns what huggingface_hub raises into one HubError that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except (OSError, errors.HTTPError, errors.HfHubHTTPError) as error:
        page = f"{_endpoint()}/{repository}"
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, errors.RevisionNotFoundError):
            said = f"{repository} has no revision {revision!r}: see {page}/tree/main for what there is."
        elif isinstance(error, errors.GatedRepoError) or status in (401, 403):
            said = (
                f"the hub answered {status} for {file or repository}: it does not exist, or it wants to know who "
                f"you are. For a gated model: accept its terms at {page}, make a token that may read at "
                f"{_endpoint()}/settings/tokens, and give it once with `hf auth login`, or in the variable HF_TOKEN."
            )
        elif status == 404:
            said = f"{file or 'the repository'} was not found at {page}: check the name."
        elif status:
            said = f"the hub answered {status} for {file or repository}: try again later."
        elif isinstance(error, errors.OfflineModeIsEnabled):
            said = "HF_HUB_OFFLINE is set, so nothing may be downloaded: unset it."
        elif file and isinstance(error, OSError) and "onsistency" in str(error):
            said = f"{file} came with another size than the hub promises: run the same command again."
        elif isinstance(error, OSError) and error.errno:
            said = f"{file or repository} could not be written: {error.strerror}."
        else:
            said = (
                f"the hub at {_endpoint()} cannot be reached ({type(error).__name__}): check the connection. "
                "What has arrived is kept; the same command goes on from there."
            )
        raise HubError(said[0].upper() + said[1:]) from None
