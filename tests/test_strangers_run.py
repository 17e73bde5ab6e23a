"""A run folder of somebody else: nothing in it is executed, nothing outside of it is opened."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from cmr_bench.cli import main
from cmr_bench.results.examples import thumbnail_name
from cmr_bench.results.record import read_result

OWN = Path(__file__).with_name("own.py")
OPTIONS = [
    *("--trainer.max_epochs", "1", "--trainer.progress", "false", "--trainer.bootstrap", "0"),
    *("--trainer.accelerator", "cpu"),
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    patch = pytest.MonkeyPatch()
    patch.setenv("CMR_BENCH_CACHE", str(root / "cache"))
    small = ["--data.n_train", "60", "--data.n_val", "20", "--data.n_test", "20"]
    assert main(["run", "--model", "vsepp", *small, *OPTIONS, "--runs", str(root / "runs")]) == 0
    patch.undo()
    (folder,) = root.glob("runs/*/*/*")
    return folder


@pytest.fixture
def strange(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of a sound run, for a stranger to change."""
    copy = tmp_path / "runs" / "synthetic" / "vsepp" / run_folder.name
    shutil.copytree(run_folder, copy)
    (tmp_path / "evil.py").write_text("open('executed', 'w').close()\nclass M: pass\n")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "photos" / "red.png")
    return copy


@pytest.mark.parametrize("entry", ["method", "dataset"])
@pytest.mark.parametrize("target", ["{root}/evil.py:M", "evil:M"])
@pytest.mark.parametrize("command", ["search", "config", "resume", "suite", "dashboard"])
def test_reading_a_run_folder_executes_nothing(
    command: str,
    target: str,
    entry: str,
    strange: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = yaml.safe_load((strange / "config.yaml").read_text())
    (strange / "config.yaml").write_text(yaml.safe_dump({**config, entry: target.format(root=tmp_path)}))
    if command == "resume":
        (strange / "result.json").unlink()
    elif command == "dashboard":  # a record that says otherwise than its configuration would not be read at all
        record = json.loads((strange / "result.json").read_text())
        shown = target.format(root="").removeprefix("/")
        (strange / "result.json").write_text(json.dumps(record | {entry.removesuffix("set"): shown}))
    (tmp_path / "suite.yaml").write_text("runs: [{method: vsepp, data: synthetic}]\n")
    words: list[object] = {
        "search": ["search", strange, "a red circle", "--images", "photos"],
        "config": ["run", "--config", strange / "config.yaml"],
        "resume": ["run", "--resume", strange],
        "suite": ["suite", "suite.yaml", "--dry-run"],
        "dashboard": ["dashboard", "--out", "site"],
    }[command]
    code = main(list(map(str, words)))
    assert not (tmp_path / "executed").exists()
    told = capsys.readouterr().err
    if command in ("suite", "dashboard"):
        assert code == 0, told
        return
    assert code == 2
    (line,) = told.splitlines()
    assert "is code from outside the package" in line
    assert "--trust" in line


@pytest.fixture(scope="module")
def own_config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The configuration of a run on the user's own classes; what follows is in other folders, so nothing is known."""
    root = tmp_path_factory.mktemp("own")
    shutil.copy(OWN, root)
    patch = pytest.MonkeyPatch()
    patch.chdir(root)
    assert main(["run", "--model", "own.py:Linear", "--data", "own.py:Toy", *OPTIONS]) == 0
    patch.undo()
    (folder,) = root.glob("runs/*/*/*")
    checksum = hashlib.sha256(OWN.read_bytes()).hexdigest()
    assert read_result(folder / "result.json").code == {"own.py:Linear": checksum, "own.py:Toy": checksum}
    return (folder / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ([], 2),
        (["--model", "own.py:Linear"], 0),
        (["--data", "./own.py:Toy"], 0),
        (["--model", "own.py:Linear", "--data", "own.py:Toy"], 0),
        (["--trust"], 0),
        (["--model", "vsepp"], 2),
    ],
)
def test_own_code_runs_where_the_user_names_it(
    more: list[str],
    code: int,
    own_config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(OWN, tmp_path)
    Path("config.yaml").write_text(own_config)
    assert main(["run", "--config", "config.yaml", *more, "--print-config"]) == code
    assert ("--trust" in capsys.readouterr().err) == (code == 2)


def test_a_suite_of_the_user_runs_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(OWN, tmp_path)
    options = dict(zip([word.removeprefix("--") for word in OPTIONS[::2]], OPTIONS[1::2], strict=True))
    suite = {"runs": [{"method": "own.py:Linear", "data": "own.py:Toy", "options": options}]}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    assert main(["suite", "suite.yaml"]) == 0
    assert len(list(tmp_path.glob("runs/Toy/Linear/*/result.json"))) == 1


@pytest.mark.parametrize("name", ["config.yaml", "history.csv", "examples.json", "ranks.npz", "result.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "large", "deep"])
def test_the_dashboard_reads_no_other_file(
    name: str, kind: str, strange: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text('{"word": "swordfish"}\n')
    other = strange.with_name("sound")
    shutil.copytree(strange, other)
    file = strange / name
    file.unlink()
    if kind == "link":
        file.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "large":
        with file.open("wb") as stream:
            stream.truncate(2**27)
    else:
        file.write_text('{"schema":' + "[" * 100 + "]" * 100 + "}")
    runs = str(tmp_path / "runs")
    assert main(["dashboard", "--runs", runs, "--out", str(tmp_path / "site")]) == 0
    told = capsys.readouterr()
    harmless = kind == "deep" and name in ("config.yaml", "history.csv")
    assert harmless or f"skipped: {file}" in told.err
    assert ("1 runs" if name == "result.json" else "2 runs") in told.out
    for page in (tmp_path / "site").rglob("*"):
        assert page.is_dir() or b"swordfish" not in page.read_bytes()
    assert main(["leaderboard", "--runs", runs, "--format", "csv"]) == 0


def test_thumbnails_are_pictures_of_the_run_folder(strange: Path, tmp_path: Path) -> None:
    image = json.loads((strange / "examples.json").read_text())["i2t"][0]["query"]["id"]
    thumbnail = strange / "examples" / thumbnail_name(image)
    assert thumbnail.is_file()
    (tmp_path / "secret.jpg").write_bytes(thumbnail.read_bytes())
    words = ["dashboard", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "site")]
    assert main(words) == 0
    assert list((tmp_path / "site").rglob(thumbnail.name))
    for content in (b"root:x:0:0:", None):
        thumbnail.unlink()
        if content is None:
            thumbnail.symlink_to(tmp_path / "secret.jpg")
        else:
            thumbnail.write_bytes(content)
        assert main(words) == 0
        assert not list((tmp_path / "site").rglob(thumbnail.name))


@pytest.mark.parametrize("command", ["search", "resume"])
def test_a_run_folder_with_a_link_out_of_it_is_not_gone_on_with(
    command: str, strange: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (strange / "result.json").unlink()
    thumbnail = next((strange / "examples").iterdir())
    thumbnail.unlink()
    thumbnail.symlink_to(victim)
    words = {
        "search": [str(strange), "red", "--images", str(tmp_path / "photos")],
        "resume": ["--resume", str(strange)],
    }
    assert main(["search" if command == "search" else "run", *words[command]]) == 1
    assert "is a link to" in capsys.readouterr().err
    assert victim.read_text() == "mine"


def test_a_configuration_that_grows_is_refused_by_every_command(
    strange: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9) if n else '1'}]" for n in range(12)]
    (strange / "config.yaml").write_text(
        "\n".join([*levels, "method: vsepp", "dataset: synthetic", "model: {a: *x11}"])
    )
    runs = str(tmp_path / "runs")
    assert main(["run", "--config", str(strange / "config.yaml")]) == 2
    assert "with its aliases written out" in capsys.readouterr().err
    (tmp_path / "suite.yaml").write_text("runs: [{method: vsepp, data: synthetic}]\n")
    assert main(["leaderboard", "--runs", runs, "--suite", str(tmp_path / "suite.yaml")]) in (0, 1)
    assert main(["suite", str(tmp_path / "suite.yaml"), "--runs", runs, "--dry-run"]) == 0
