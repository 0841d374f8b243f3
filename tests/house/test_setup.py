"""What a fresh clone rests on: hashed locks without addresses, a small install, one clear line for a wrong Python."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
MAKE_ENV = ROOT / "scripts" / "make_env.py"

MAX_PACKAGES = 30
MAX_BYTES = 60 * 10**6


def requirements(lock: Path) -> list[str]:
    """Logical lines of a requirements file."""
    return [line for line in lock.read_text().replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_is_exact_and_hashed(lock: Path) -> None:
    lines = requirements(lock)
    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9-]+==[0-9][0-9a-z.]*\s", line), line
        assert "--hash=sha256:" in line, line


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locks_name_no_place(lock: Path) -> None:
    text = lock.read_text()
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links|--trusted-host| /", text)


def test_run_requirements_are_those_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    written = [line for line in (ROOT / "requirements/run.in").read_text().splitlines() if not line.startswith("#")]
    assert written == declared


def test_the_locks_agree_on_versions() -> None:
    chosen: dict[str, set[str]] = {}
    for lock in LOCKS:
        if lock.stem in ("peers", "clients"):
            continue  # others' programs, in environments of their own
        for line in requirements(lock):
            name, version = line.split(" ", 1)[0].split("==")
            chosen.setdefault(name, set()).add(version)
    assert {name: versions for name, versions in chosen.items() if len(versions) > 1} == {}


def base_install() -> dict[str, int]:
    """Bytes on disk of bursar's run-time closure, by package, as installed here.

    Of Bursar itself what its wheel brings: its byte code here is of whatever the tests before this one imported.
    """
    found: dict[str, int] = {}
    for line in requirements(ROOT / "requirements/run.lock"):
        name = line.split("==")[0]
        try:
            files = importlib.metadata.distribution(name).files or []
        except importlib.metadata.PackageNotFoundError:
            assert ";" in line, f"{name} is locked but not installed"  # a marker keeps it off this platform
            continue
        places = [Path(str(file.locate())) for file in files]
        found[name] = sum(place.stat().st_size for place in places if place.exists())
    package = [path for path in (ROOT / "bursar").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    found["bursar"] = sum(path.stat().st_size for path in package)
    return found


def test_base_install_stays_small() -> None:
    sizes = base_install()
    assert len(sizes) <= MAX_PACKAGES, sorted(sizes)
    assert sum(sizes.values()) <= MAX_BYTES, sorted(sizes.items(), key=lambda item: -item[1])


def make_env(tmp_path: Path, disguise: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/make_env.py in an interpreter that has been made to look lesser than it is."""
    program = f"import sys, runpy\n{disguise}\nsys.argv = ['make_env.py', 'env', 'none.lock']\n"
    program += f"runpy.run_path({str(MAKE_ENV)!r}, run_name='__main__')"
    return subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("disguise", "told"),
    [
        ("sys.version_info = (3, 10, 13)", "Python 3.11 or newer is needed"),
        ("sys.version_info = (2, 7, 18)", "Python 3.11 or newer is needed"),
        ("sys.modules['venv'] = None", "no venv module"),
        ("sys.modules['ensurepip'] = None", "no venv module"),
    ],
)
def test_an_unfit_python_is_one_clear_line(tmp_path: Path, disguise: str, told: str) -> None:
    done = make_env(tmp_path, disguise)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert told in done.stderr
    assert not (tmp_path / "env").exists()


def test_make_alone_lists_every_chore() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for chore in phony.split():
        assert f"make {chore} " in listed


def test_nothing_tracked_names_a_machine_or_a_registry() -> None:
    hosts = "pypi" + r"\.org|pythonhosted|registry\.npmjs"
    grep = [
        "git",
        "grep",
        "-nIE",
        f"(/ho[m]e/[a-z]|/ro[o]t/|/[w]ork/|{hosts})",
        "--",
        ".",
        ":!LICENSE",
        ":!tests/house",
    ]
    found = subprocess.run(grep, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode > 1:
        pytest.fail(f"git grep could not look: {found.stderr}")
    assert found.stdout == ""
