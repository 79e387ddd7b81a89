"""The notebook runs from its first cell to its last, as a user would run it."""

import json
import shutil

import pytest

from integration_tests import running
from integration_tests.pages import ROOT

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.mark.slow
def test_quickstart_runs(tmp_path):
  cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
  code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
  script = "\n\n".join(["import matplotlib", 'matplotlib.use("Agg")', *code])
  (tmp_path / "quickstart.py").write_text(script, encoding="utf-8")
  shutil.copytree(ROOT / "configs" / "yaml", tmp_path / "configs" / "yaml")
  status, said = running.command("quickstart.py", cwd=tmp_path)
  assert status == 0, said[-3000:]
  first, second = (part.partition("\n")[2] for part in said.split("--- slot ")[1:])
  assert first.strip()
  assert first.strip() == second.strip()
