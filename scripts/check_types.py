"""Check the types of all programs that users read, by mypy and by pyright.

Those are the Python blocks of the documentation, the blocks of a page one after the
other in one module, and the examples. `tests/typing` says what must be an error, and
what the types are. Both checkers run with their strictest settings.
usage: scripts/check_types.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from blocks import PAGES, blocks  # noqa: E402

#: Where the programs are written; mypy and pyright are run in the tree.
FOLDER = ROOT / ".typing"
STUBS = "tests/typing/stubs"
EXAMPLES = ["examples", "ws_example.py"]
PYRIGHT = ROOT / "tests/typing/node_modules/pyright/index.js"

#: A page shows a function again as it changes, and imports what its next program needs.
_HEAD = """\
# mypy: disable-error-code="no-redef"
# pyright: reportRedeclaration=false, reportDuplicateImport=false
"""


def extract() -> dict[str, str]:
    """Write the programs of all pages; return the page of each file."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    pages = {}
    for page in PAGES:
        text, files = _HEAD, {}
        for block in blocks(page, "python"):
            if block.not_run:
                continue
            text += "\n" * (block.line - 1 - text.count("\n")) + block.code
            if block.file is not None:
                # Where an import finds it; a page may show one file several times.
                files[block.file] = files.get(block.file, "") + block.code
        if text == _HEAD:
            continue
        name = re.sub(r"\W", "_", page.removesuffix(".md")) + ".py"
        (FOLDER / name).write_text(text, encoding="utf-8")
        pages[f".typing/{name}"] = page
        for name in imported_from(text) & files.keys():
            assert not (FOLDER / name).exists(), f"two pages have a file {name}"
            (FOLDER / name).write_text(_HEAD + files[name], encoding="utf-8")
    return pages


def imported_from(text: str) -> set[str]:
    """The files of the modules that a program imports."""
    return {f"{name}.py" for name in re.findall(r"^(?:from|import) (\w+)", text, re.M)}


def run(command: list[str], pages: dict[str, str], **environment: str) -> bool:
    """Run a checker; print what it says of the pages, and return whether it is good."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    text = done.stdout.replace(f"{ROOT}/", "")
    print(re.sub(r"\.typing/\w+\.py", lambda m: pages.get(m[0], m[0]), text), end="")
    return done.returncode == 0


def check_with_mypy(pages: dict[str, str]) -> bool:
    """Run mypy with what pyproject.toml says; it keeps what it knows of the package."""
    command = [sys.executable, "-m", "mypy", "--explicit-package-bases"]
    command += [
        ".typing",
        "tests/typing/handlers.py",
        "tests/typing/options.py",
        *EXAMPLES,
    ]
    return run(command, pages, MYPYPATH=f"{ROOT / STUBS}:{FOLDER}")


def check_with_pyright(pages: dict[str, str]) -> bool:
    """Run pyright in its strict mode, if it is installed."""
    if not PYRIGHT.exists() or shutil.which("node") is None:
        print("== pyright left out: it is not installed (node, npm)")
        return "EXPECT_NODE" not in os.environ
    settings = {
        "typeCheckingMode": "strict",
        "include": [".", "../tests/typing", *(f"../{name}" for name in EXAMPLES)],
        "exclude": ["../tests/typing/node_modules", f"../{STUBS}"],
        "extraPaths": ["..", "."],
        "stubPath": f"../{STUBS}",
        "pythonVersion": "3.11",
        # What must be an error is marked for each of the two checkers.
        "enableTypeIgnoreComments": False,
        "reportUnnecessaryTypeIgnoreComment": "error",
        # The stubs stand for libraries that may be missing.
        "reportMissingModuleSource": False,
    }
    path = FOLDER / "pyrightconfig.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    command = ["node", str(PYRIGHT), "-p", str(path), "--pythonpath", sys.executable]
    return run(command, pages)


if __name__ == "__main__":
    found = extract()
    good = [check_with_mypy(found), check_with_pyright(found)]
    sys.exit(not all(good))
