"""A real JupyterLab in a real browser, for tests and for pictures.

    with Lab(folder) as lab:
        notebook = lab.open_notebook("05_rolling_buffer.ipynb")
        notebook.run_all()
        before = notebook.source(".ring-image img")
        notebook.press(".ring-slider .noUi-handle", "ArrowRight", 3)
        notebook.wait_image_change(".ring-image img", before)

As a script it runs a notebook and takes pictures of its whole length:

    python tests/browser.py notebooks/05_rolling_buffer.ipynb /tmp/pictures
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from minimistral.lab import free_port, sync

VIEWPORT = {"width": 1400, "height": 1000}
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--force-color-profile=srgb",
]
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    # all cells are in the page, also those off the screen
    "notebook-extension/tracker": {"windowingMode": "none"},
}
INSTALL = "install one (Debian: apt install chromium) or run: python -m playwright install chromium"

READY = """async () => {
    await window.jupyterapp.restored;
    const panel = window.jupyterapp.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
}"""

RUN_ALL = "() => window.jupyterapp.commands.execute('notebook:run-all-cells')"

SHUTDOWN = "() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()"

#: starts one of these without waiting for it, which page.evaluate would do for ever
START = """start => {
    window.done = null;
    eval(start)().then(() => { window.done = 'yes'; }, error => { window.done = String(error); });
}"""

CELLS = """() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells
    .filter(cell => cell.cell_type === 'code')
    .map(cell => ({id: cell.id, source: cell.source, execution_count: cell.execution_count, outputs: cell.outputs}))"""

#: presses keys on an element and tells, in ms, how long each took to change what is watched
LATENCY = """async ([handle, watched, keys]) => {
    const times = [], element = document.querySelector(handle);
    element.focus();
    for (const key of keys) {
        const changed = new Promise(done => {
            const observer = new MutationObserver(() => {
                observer.disconnect();
                requestAnimationFrame(() => done(performance.now()));
            });
            observer.observe(document.querySelector(watched), {childList: true, subtree: true, characterData: true});
        });
        const start = performance.now();
        element.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
        times.push(await changed - start);
        await new Promise(done => setTimeout(done, 150));
    }
    return times;
}"""

#: where the notebook stands, how high its panel is, and how far below the panel's top its last cell ends
BOTTOM = """panel => [panel.scrollTop, panel.clientHeight,
    [...panel.querySelectorAll('.jp-Cell')].at(-1).getBoundingClientRect().bottom - panel.getBoundingClientRect().top]"""


class BrowserError(Exception):
    """JupyterLab or the browser did not do what was asked; the message says what was seen."""


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome: $CHROMIUM, one on the path, one in its usual place, or Playwright's; else None."""
    named = [os.environ.get("CHROMIUM"), *map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))]
    usual = [
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    ]
    caches = [Path.home() / folder / "ms-playwright" for folder in (".cache", "Library/Caches", "AppData/Local")]
    names = ("chrome", "chrome.exe", "Chromium", "Google Chrome for Testing")
    own = [path for cache in caches for path in cache.glob("chromium-*/**/*") if path.name in names and path.is_file()]
    return next((str(path) for path in [*named, *usual, *own] if path and Path(path).is_file()), None)


class Chromium:
    """The one browser of this process: Playwright starts once only and keeps asyncio from running. It ends with its last user."""

    users, playwright, browser = 0, None, None

    @classmethod
    @contextmanager
    def pages(cls):
        """A fresh browser context: its pages share nothing with others' and are closed with it."""
        from playwright.sync_api import sync_playwright

        if not cls.users:
            if (path := find_chromium()) is None:
                raise BrowserError(f"there is no Chromium: {INSTALL}")
            cls.playwright = sync_playwright().start()
        cls.users += 1
        try:
            if cls.users == 1:
                cls.browser = cls.playwright.chromium.launch(executable_path=path, args=FLAGS)
            context = cls.browser.new_context(viewport=VIEWPORT)
            yield context
            context.close()
        finally:
            cls.users -= 1
            if not cls.users:
                cls.playwright.stop()


class Lab:
    """JupyterLab serving a folder, with no settings but its own, and a browser to look at it. options: more of its own."""

    def __init__(self, folder, seconds: float = 180, options=()):
        self.folder, self.seconds, self.options = Path(folder).resolve(), seconds, options

    def __enter__(self):
        with ExitStack() as stack:
            self._pages = stack.enter_context(Chromium.pages())
            own = stack.enter_context(tempfile.TemporaryDirectory(prefix="minimistral-lab-", ignore_cleanup_errors=True))
            self._serve(Path(own), stack)
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._opened.close()

    def _serve(self, own: Path, stack: ExitStack):
        for name, values in SETTINGS.items():
            file = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(values), encoding="utf-8")
        port = free_port(18888 + os.getpid() % 1000)
        self.url = f"http://127.0.0.1:{port}"
        env = os.environ | {
            "JUPYTER_CONFIG_DIR": str(own / "config"), "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
            "MINIMISTRAL_HOME": str(own / "home"), "IPYTHONDIR": str(own / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1",
        }
        options = [
            "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
            "--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={self.folder}",
            "--LabApp.expose_app_in_browser=True", *self.options,
        ]
        command = [sys.executable, "-m", "jupyterlab", *options]
        with open(own / "log", "wb") as log:
            server = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(end, server)
        wait_for_server(server, self.url, self.seconds, own / "log")

    def open_notebook(self, path) -> "Notebook":
        """Open a notebook, given by its path below the folder, in a fresh workspace, and wait until its kernel is ready."""
        page = self._pages.new_page()
        notebook = Notebook(page, self)
        page.on("request", lambda request: notebook.requests.append(request.url))
        page.goto(f"{self.url}/lab/workspaces/{secrets.token_hex(4)}/tree/{quote(str(path))}", timeout=self.seconds * 1000)
        page.wait_for_selector(".jp-Notebook", timeout=self.seconds * 1000)
        page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.content?.model", timeout=self.seconds * 1000)
        if not notebook.do(READY, self.seconds):
            raise BrowserError(f"{path} was not ready in {self.seconds:g} s.")
        return notebook


class Notebook:
    """One notebook open in the browser. `page` is Playwright's page, for whatever is not here."""

    def __init__(self, page, lab: Lab):
        self.page, self.lab, self.requests = page, lab, []

    def run_all(self, seconds: float = 600):
        """Run all cells and wait until the last has run; BrowserError when they take longer or one fails."""
        ended = self.do(RUN_ALL, seconds)
        for cell in self.cells():
            for error in errors(cell):
                raise BrowserError(f"{error['ename']}: {error['evalue']}, in the cell {cell['id']}:\n{cell['source']}")
            if cell["execution_count"] is None:
                raise BrowserError(f"the cell {cell['id']} has not run {'' if ended else f'in {seconds:g} s'}:\n{cell['source']}")

    def do(self, script: str, seconds: float) -> bool:
        """Run an async function in the page; whether it ended in so many seconds."""
        from playwright.sync_api import TimeoutError

        self.page.evaluate(START, script)
        try:
            self.page.wait_for_function("() => window.done", timeout=seconds * 1000)
        except TimeoutError:
            return False
        if (said := self.page.evaluate("window.done")) != "yes":
            raise BrowserError(f"the page said: {said}")
        return True

    def cells(self) -> list[dict]:
        """The code cells as they stand in the browser: id, source, execution_count, outputs."""
        return self.page.evaluate(CELLS)

    def press(self, css: str, key: str, n: int = 1):
        """Focus an element, such as a slider's handle, and press a key n times."""
        element = self.page.locator(css).first
        element.scroll_into_view_if_needed()
        element.focus()
        for _ in range(n):
            element.press(key)

    def latencies(self, css: str, keys: list[str], watched: str) -> list[float]:
        """Press keys on an element, one after the other; milliseconds from each press to the changed picture in `watched`."""
        self.page.locator(css).first.scroll_into_view_if_needed()
        return self.page.evaluate(LATENCY, [css, watched, keys])

    def source(self, css: str) -> str:
        """What a picture shows: its src."""
        return self.page.locator(css).first.get_attribute("src")

    def wait_image_change(self, css: str, before: str, seconds: float = 60) -> str:
        """Wait until a picture's src is no longer `before` and has loaded; return the new src."""
        changed = "([css, before]) => { const i = document.querySelector(css); return i && i.src !== before && i.complete; }"
        self.page.wait_for_function(changed, arg=[css, before], timeout=seconds * 1000)
        return self.source(css)

    def close(self):
        """Close the page and end its kernel."""
        self.do(SHUTDOWN, self.lab.seconds)
        self.page.close()

    def foreign_requests(self) -> list[str]:
        """What the page asked of anything but the local server."""
        return [url for url in self.requests if urlsplit(url).scheme in ("http", "https", "ws", "wss")
                and urlsplit(url).hostname != "127.0.0.1"]

    def screenshot(self, path):
        """Save what the browser shows now."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path))

    def screenshots(self, folder, name: str) -> list[Path]:
        """Save pictures of the notebook's whole length, each overlapping the last a little; return their paths."""
        outer, saved, top = self.page.locator(".jp-WindowedPanel-outer").first, [], 0
        while True:
            outer.evaluate("(panel, top) => { panel.scrollTop = top; }", top)
            self.page.wait_for_timeout(400)
            self.page.wait_for_function("() => [...document.images].every(image => image.complete)")
            saved.append(Path(folder) / f"{name}_{len(saved):02}.png")
            self.screenshot(saved[-1])
            top, height, last = outer.evaluate(BOTTOM)
            if last <= height or len(saved) == 100:
                return saved
            top += height - 80


def errors(cell: dict) -> list[dict]:
    return [output for output in cell["outputs"] if output["output_type"] == "error"]


def wait_for_server(process: subprocess.Popen, url: str, seconds: float, log: Path, token: str = ""):
    """Wait until a Jupyter server answers /api/status; BrowserError with its log when it ends or does not answer in time."""
    start = time.monotonic()
    while time.monotonic() - start < seconds and process.poll() is None:
        try:
            ask(f"{url}/api/status", token)
            return
        except OSError:
            time.sleep(0.2)
    state = "still runs" if process.poll() is None else f"ended with {process.returncode}"
    said = log.read_text(encoding="utf-8", errors="replace")[-3000:]
    raise BrowserError(f"JupyterLab did not answer at {url} and {state}. It said:\n{said}")


def ask(url: str, token: str = "") -> dict:
    """What a Jupyter server answers to a GET. OSError (URLError) when it does not."""
    request = urllib.request.Request(url, headers={"Authorization": f"token {token}"} if token else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by a proxy: it is this machine
    with opener.open(request, timeout=30) as answer:
        return json.load(answer)


def end(process: subprocess.Popen, seconds: float = 15):
    """End a server and, with it, its kernels; kill it when it does not go."""
    if os.name == "nt":  # where ending a process leaves its children
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(seconds)


@contextmanager
def learners_copy(notebooks):
    """A temporary folder with my/ in it, laid from a folder of notebooks as `make lab` lays it: without outputs."""
    with tempfile.TemporaryDirectory(prefix="minimistral-my-", ignore_cleanup_errors=True) as folder:
        sync(notebooks, Path(folder) / "my")
        yield Path(folder)


def main(argv) -> int:
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    path, folder = Path(argv[0]).resolve(), Path(argv[1])
    with learners_copy(path.parent) as copy, Lab(copy) as lab:
        notebook = lab.open_notebook(f"my/{path.name}")
        failed = None
        try:
            notebook.run_all()
        except BrowserError as error:
            failed = error
        for picture in notebook.screenshots(folder, path.stem):
            print(picture)
        for url in notebook.foreign_requests():
            print(f"asked outside: {url}", file=sys.stderr)
    if failed:
        print(failed, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
