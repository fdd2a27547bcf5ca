"""The wheel that `pip install` would get: every package with its types, nothing of tests or benchmarks."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import ROOT
from tests.house import ALLOWED


def test_the_wheel_is_complete(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", *ALLOWED):  # built outside of the checkout, which it litters
        (source / name).symlink_to(ROOT / name)
    words = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(
        [*words, "--wheel-dir", str(tmp_path)], cwd=source, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("xtrain-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        commands = archive.read(entry_points).decode()
    expected = {str(path.relative_to(ROOT)) for package in ALLOWED for path in (ROOT / package).rglob("*.py")}
    pages = {ROOT / "serving" / "ui", ROOT / "export" / "targets" / "browser"}
    expected |= {str(path.relative_to(ROOT)) for folder in pages for path in folder.iterdir()}
    expected.add("scoring/report/report.css")
    assert names == expected | {f"{package}/py.typed" for package in ALLOWED}
    for command in ("xtrain", "xexport", "xeval", "xscore", "xserve"):
        assert f"{command} = " in commands
