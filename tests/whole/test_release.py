"""What several files say of releases agrees; the workflow itself runs elsewhere."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml
from blocks import DOCS, ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(not (DOCS / "conf.py").exists(), reason="no checkout"),
]
of_the_forge = pytest.mark.skipif(
    not WORKFLOW.exists(), reason="what is for the forge is in checkouts only"
)


def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def built() -> tuple[list[str], list[str]]:
    """The Pythons that wheels are built for, and those of them without the GIL."""
    pythons: dict[str, list[str]] = {"": [], "t": []}
    for pattern in project()["tool"]["cibuildwheel"]["build"].split():
        parts = re.fullmatch(r"cp3(\d)\{([\d,]+)\}(t?)-\*", pattern)
        assert parts is not None, pattern
        tens, ones, kind = parts.groups()
        pythons[kind] += [f"3.{tens}{one}" for one in ones.split(",")]
    return pythons[""], pythons["t"]


def workflow() -> dict[Any, Any]:
    """The release workflow."""
    parsed: dict[Any, Any] = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    return parsed


def test_wheels_classifiers_and_documentation_name_the_same_pythons() -> None:
    with_gil, without_gil = built()
    prefix = "Programming Language :: Python :: 3."
    classifiers = [
        line.removeprefix(prefix[:-2])
        for line in project()["project"]["classifiers"]
        if line.startswith(prefix)
    ]
    page = (DOCS / "versions.md").read_text("utf-8")
    rows = re.findall(r"^\| (3\.\d+) \|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
    script = (ROOT / "scripts" / "build_wheels.py").read_text("utf-8")
    assert with_gil == classifiers == [version for version, _ in rows]
    assert f"VERSIONS = {tuple(with_gil)}".replace("'", '"') in script
    assert all(f"({version}t)" in dict(rows)[version] for version in without_gil)
    assert project()["project"]["requires-python"] == f">={with_gil[0]}"


@of_the_forge
def test_workflow_builds_for_all_machines_that_wheels_are_configured_for() -> None:
    settings = project()["tool"]["cibuildwheel"]
    machines = workflow()["jobs"]["wheels"]["strategy"]["matrix"]["include"]
    for system, runner in (("linux", "ubuntu"), ("macos",) * 2, ("windows",) * 2):
        archs = {m["arch"] for m in machines if m["runner"].startswith(runner)}
        assert archs == set(settings[system]["archs"])
    skipped = sorted(m["skip"] for m in machines if m["runner"].startswith("ubuntu"))
    assert skipped == ["*-manylinux_*"] * 2 + ["*-musllinux_*"] * 2


@of_the_forge
def test_only_a_tag_starts_the_workflow_and_everything_comes_before_publishing() -> (
    None
):
    assert workflow()[True] == {"push": {"tags": ["v*"]}}  # YAML's idea of `on`
    jobs = workflow()["jobs"]
    assert jobs["publish"]["environment"] == "pypi"
    needs = {name: job.get("needs") for name, job in jobs.items()}
    assert needs == {
        "source": None,
        "wheels": "source",
        "attest": ["source", "wheels"],
        "publish": "attest",
        "announce": "publish",
    }
    commands = [step.get("run", "") for step in jobs["source"]["steps"]]
    assert 'python scripts/check_package.py --tag "$GITHUB_REF_NAME"' in commands


@of_the_forge
def test_each_job_of_the_workflow_may_do_what_it_must() -> None:
    assert workflow()["permissions"] == {}
    jobs = workflow()["jobs"]
    assert {name: job["permissions"] for name, job in jobs.items()} == {
        "source": {"contents": "read"},
        "wheels": {"contents": "read"},
        "attest": {"attestations": "write", "id-token": "write"},
        "publish": {"id-token": "write"},
        "announce": {"contents": "write"},
    }
    assert "secrets." not in WORKFLOW.read_text("utf-8")


@of_the_forge
def test_actions_are_named_by_their_commits() -> None:
    used = re.findall(r"uses: (.*)", WORKFLOW.read_text("utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
