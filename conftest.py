"""For every run of pytest: tests read and write no learner's state, and each notebook under nbval starts without any."""

import os
import tempfile
from pathlib import Path

import pytest

_home = tempfile.TemporaryDirectory(prefix="minimistral-tests-", ignore_cleanup_errors=True)
_prepared = set()


def pytest_configure():
    Path(_home.name, "matplotlibrc").write_text("")
    os.environ["MINIMISTRAL_HOME"] = str(Path(_home.name, "home"))
    # what a kernel reads of its user's settings: nothing
    os.environ["MATPLOTLIBRC"] = str(Path(_home.name, "matplotlibrc"))
    os.environ["IPYTHONDIR"] = str(Path(_home.name, "ipython"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before nbval starts a notebook's kernel, at its first cell: an empty home of its own."""
    notebook = item.path
    if notebook.suffix == ".ipynb" and notebook not in _prepared:
        _prepared.add(notebook)
        os.environ["MINIMISTRAL_HOME"] = str(Path(_home.name, notebook.stem))
