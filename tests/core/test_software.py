"""Which commit made a model is said only where git knows it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.core.software import software
from project import APP, PROJECT


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="not a checkout")
def test_the_commit_is_the_one_that_is_checked_out() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert software()["commit"].rstrip("+") == head.stdout.strip()


def test_of_a_copy_in_another_repository_it_is_unknown(tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "other"], cwd=tmp_path, check=True)
    shutil.copyfile(APP / "lib/core/software.py", tmp_path / "copied.py")
    command = [sys.executable, "-c", "import copied; print(copied.software()['commit'])"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "unknown"
