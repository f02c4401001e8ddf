"""Fails if a package of this environment has a known vulnerability that ``[tool.pip-audit.explained]`` doesn't explain.

pip-audit asks the package index. If the index can't be reached or doesn't know a package, the audit says so and passes.
"""

import json
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import tomli

PROJECT = Path(__file__).resolve().parents[1]
UNREACHABLE = re.compile(r"ConnectionError|ServiceError|ReadTimeout|may be blocking")
"""What pip-audit writes if the index can't be reached."""
NOT_OURS = {"pip", "setuptools"}
"""They come with Python and are no part of the software."""


def ask() -> list[dict[str, Any]]:
    """Return pip-audit's finding on each package; none if the index can't be reached."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format=json", "--progress-spinner=off", "--timeout=10"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.stdout.startswith("{"):
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
        return [package for package in found if package["name"] not in NOT_OURS]
    if not UNREACHABLE.search(done.stderr):
        sys.exit(f"pip-audit fails:\n{done.stderr}")
    return []


def unexplained(packages: list[dict[str, Any]], explained: Collection[str]) -> list[str]:
    """Return a line for each vulnerability none of whose names is explained."""
    return [
        f"{package['name']} {package['version']}: {one['id']}, fixed in {' '.join(one['fix_versions']) or 'no version'}"
        for package in packages
        for one in package.get("vulns", ())
        if not {one["id"], *one["aliases"]} & {*explained}
    ]


def main() -> None:
    """Audit the environment."""
    settings = tomli.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pip-audit"]
    packages = ask()
    unknown = [package["name"] for package in packages if "vulns" not in package]
    if not packages:
        print("NOTHING IS AUDITED: the package index can't be reached.")
    elif unknown:
        print(f"{len(unknown)} OF {len(packages)} PACKAGES ARE NOT AUDITED: the index doesn't know their versions.")
    print(f"{len(packages) - len(unknown)} packages are audited.")
    if found := unexplained(packages, settings["explained"]):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
