"""The plan of the house: every room lists its files in reading order, and no import runs upwards.

The docstring of a room's `__init__` has one line per file, two spaces in front of its name:

  name        what is in it
  name/       a room in it
"""

import ast
import pathlib
import re

import pytest

import melodi_plugin

ROOT = pathlib.Path(melodi_plugin.__file__).parent
ROOMS = sorted(
  path.parent for path in ROOT.rglob("__init__.py") if path.parent.relative_to(ROOT).parts
)
LARGEST = 15  # files of one room
# Rooms and files that must start without what is slow to import, or know nothing of it.
FOREIGN = {
  "config": {"jax", "flax", "optax", "maxtext"},
  "core": {"flax", "optax", "maxtext"},
  "cost": {"jax", "flax", "optax", "maxtext"},
  "server/states/files.py": {"jax", "flax", "optax", "maxtext"},
  "server/states/store.py": {"jax", "flax", "optax", "maxtext"},
  "serving/sampling_settings.py": {"jax", "flax", "optax", "maxtext"},
  "serving/snapshots.py": {"jax", "flax", "optax", "maxtext"},
}
# Outside the room maxtext/ its name stands in these files, of records and tokenizers.
MAXTEXT = {
  "data/formats.py",
  "data/corpus/build.py",
  "data/tokenizer.py",
  "testing/files/records.py",
}


def listed(room: pathlib.Path) -> list[str]:
  """The names in the docstring of a room, in order; rooms in it end with a slash."""
  text = ast.get_docstring(ast.parse((room / "__init__.py").read_text()), clean=False) or ""
  return re.findall(r"^  (\w+/?)(?= |$)", text, re.MULTILINE)


def inside(room: pathlib.Path) -> set[str]:
  """Files and rooms of a room, as its docstring names them."""
  files = {path.stem for path in room.glob("*.py") if not path.name.endswith("_test.py")}
  rooms = {f"{path.parent.name}/" for path in room.glob("*/__init__.py")}
  return files - {"__init__", "__main__", "conftest"} | rooms


def sources() -> list[pathlib.Path]:
  return sorted(
    path
    for path in ROOT.rglob("*.py")
    if not path.name.endswith("_test.py") and path.name not in ("conftest.py", "__main__.py")
  )


def imports(path: pathlib.Path) -> set[str]:
  """All modules that a file imports, wherever in it, dotted."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        dotted = f"{node.module}.{alias.name}"
        found.add(dotted if _exists(tuple(dotted.split(".")[1:])) else node.module)
  return found


def place(parts: tuple[str, ...]) -> tuple[int, ...]:
  """Where a module stands in the reading order; a room's `__init__` stands before its files."""
  room, order = ROOT, []
  for part in parts:
    names = listed(room)
    order.append(names.index(f"{part}/" if f"{part}/" in names else part))
    room /= part
  return tuple(order)


def module(path: pathlib.Path) -> tuple[str, ...]:
  parts = path.relative_to(ROOT).with_suffix("").parts
  return parts[:-1] if parts[-1] == "__init__" else parts


@pytest.mark.parametrize("room", [ROOT, *ROOMS], ids=lambda room: room.name)
def test_docstring_of_a_room_lists_what_is_in_it(room):
  assert sorted(listed(room)) == sorted(inside(room))
  assert len([name for name in listed(room) if not name.endswith("/")]) <= LARGEST


def test_files_import_only_what_stands_above_them():
  wrong = []
  for path in sources():
    own = module(path)
    if path.name == "__init__.py" and own in ((), ("maxtext", "seams")):
      continue  # the front door, and the table of seams, show what stands in them
    for name in imports(path):
      parts = tuple(name.split(".")[1:])
      if not name.startswith("melodi_plugin.") or not _exists(parts) or parts == own:
        continue
      if own[: len(parts)] == parts:
        wrong.append(f"{path.relative_to(ROOT)} imports the room it stands in")
      elif place(parts) > place(own):
        wrong.append(f"{path.relative_to(ROOT)} imports {name}")
  assert not wrong, "\n".join(wrong)


def _exists(parts: tuple[str, ...]) -> bool:
  path = ROOT.joinpath(*parts)
  return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_maxtext_is_visible_in_one_room_only():
  for path in sources():
    relative = path.relative_to(ROOT)
    roots = {name.split(".")[0] for name in imports(path)}
    if relative.parts[0] != "maxtext" and str(relative) not in MAXTEXT:
      assert "maxtext" not in roots, relative
    for named in (relative.parts[0], str(relative)):
      assert not roots & FOREIGN.get(named, set()), relative


def test_tests_import_no_tests():
  """What several of them need stands in `testing/`, or beside the integration tests."""
  importing = re.compile(r"^ *(?:from|import) .*\b\w+_test\b", re.MULTILINE)
  for folder in ("melodi_plugin", "integration_tests", "examples"):
    for path in (ROOT.parent / folder).rglob("*_test.py"):
      assert not importing.findall(path.read_text()), path


def _says_why(lines: list[str], at: int) -> bool:
  """Whether a comment stands beside the import in line `at`, or above it and its neighbours."""
  first = at
  while lines[first - 1].lstrip().startswith(("import ", "from ")):
    first -= 1
  return "#" in lines[at] or "#" in lines[first] or lines[first - 1].lstrip().startswith("#")


def test_imports_inside_functions_say_why():
  silent = []
  for path in sources():
    if "seams" in path.parts:  # the room itself says why
      continue
    text = path.read_text()
    for function in ast.walk(ast.parse(text)):
      if isinstance(function, ast.FunctionDef):
        inner = (n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom))
        lines = [n.lineno for n in inner if not _says_why(text.splitlines(), n.lineno - 1)]
        silent += [f"{path.relative_to(ROOT)}:{line}" for line in lines]
  assert not silent, silent
