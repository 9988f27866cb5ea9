"""All that pyproject.toml cannot say: a wheel brings the course along, notebooks/ without outputs, as minimistral/notebooks."""

import json
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

COURSE = Path(__file__).parent / "notebooks"


class BuildWithNotebooks(build_py):
    def run(self):
        super().run()
        if self.editable_mode:  # the repository's own are used
            return
        target = Path(self.build_lib, "minimistral", "notebooks")
        shutil.rmtree(target, ignore_errors=True)  # an earlier build's
        shutil.copytree(COURSE, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        for path in target.rglob("*.ipynb"):
            notebook = json.loads(path.read_bytes())
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    cell.update(outputs=[], execution_count=None)
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


setup(cmdclass={"build_py": BuildWithNotebooks})
