"""The front of the command line: fast, and never more than one line where something is wrong."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from cmr_bench import cli, registry
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.models.base import RetrievalModule
from cmr_bench.support.errors import CmrBenchError, UsageError, did_you_mean
from cmr_bench.version import __version__
from tests.support.fresh import python

Capture = pytest.CaptureFixture[str]

LIGHT = [
    ["data", "--help"],
    ["run", "--model", "vsepp", "--data", "flickr8k", "--help"],
    ["run", "--model", "vsep"],
    ["run", "--model", "vsepp", "--data", "flickr"],
    ["run", "--model", "vsepp", "--model.margn", "0.3"],
    ["run", "--model", "vsepp", "--model.margin", "wide"],
    ["run", "--model", "vsepp", "--variant", "best"],
    ["run", "--model", "vsepp", "--data", "flickr8k", "--data.root", "nowhere"],
    ["run", "--model", "vsepp", "--print-config"],
    ["run", "--config", "nowhere.yaml"],
    ["run", "--resume", "nowhere"],
    ["data", "check", "flickr"],
    ["data", "check", "flickr8k", "--data.rot", "x"],
    ["data", "features", "flickr8k", "--encoder", "timm:x", "--data.root", "nowhere"],
    ["suite", "nowhere"],
    ["--help"],
    ["--version"],
    ["list", "--help"],
    ["list"],
    ["run", "--help"],
    ["eval", "--help"],
    ["leaderboard", "--help"],
    ["leaderboard", "--data", "flickr30k"],
    ["lst"],
]


def test_commands_that_train_nothing_import_neither_torch_nor_lightning(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from cmr_bench.cli import main\n"
        f"for words in {LIGHT!r}:\n"
        "    main(words)\n"
        "    assert not {'torch', 'lightning', 'numpy', 'transformers'} & set(sys.modules), words\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path
    )
    assert answer.returncode == 0, answer.stderr


_VSEPP = ["run", "--model", "vsepp", "--data"]
ABSENT = [
    ["run", "--model", "vsep"],
    [*_VSEPP, "flickr8"],
    [*_VSEPP, "flickr8k", "--model.margn", "0.1"],
    [*_VSEPP, "flickr8k", "--model.margin", "wide"],
    [*_VSEPP, "flickr8k"],
    [*_VSEPP, "flickr8k", "--data.root", "nowhere"],
    [*_VSEPP, "synthetic", "--data.image_weights", "nowhere.pth"],
    [*_VSEPP, "custom", "--data.root", ".", "--data.file", "nowhere.csv"],
    [*_VSEPP, "custom", "--data.file", "/no/where.csv"],
    ["run", "--config", "nowhere.yaml"],
    ["run", "--resume", "nowhere"],
    ["suite", "survey_table1"],
    ["suite", "survey_table1", "--set", "data.root=nowhere"],
    ["data", "check", "pascal"],
    ["data", "features", "mscoco", "--encoder", "timm:resnet50"],
]


def test_what_is_not_there_is_answered_before_torch_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CMR_BENCH_DATA", raising=False)
    code = (
        "import sys\n"
        "from cmr_bench.cli import main\n"
        f"for words in {ABSENT!r}:\n"
        "    assert main(words) in (1, 2), words\n"
        "    assert not {'torch', 'lightning', 'transformers', 'torchvision'} & set(sys.modules), words\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path
    )
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stderr.splitlines()) == len(ABSENT), answer.stderr


def test_help_imports_no_command(capsys: Capture) -> None:
    code = (
        "import sys\n"
        "from cmr_bench.cli import main\n"
        "assert main(['--help']) == 0\n"
        "print(sorted(name for name in sys.modules if name.startswith('cmr_bench')))\n"
        "print([name for name in ('rich', 'yaml', 'jsonargparse', 'platformdirs') if name in sys.modules])\n"
    )
    *_, ours, theirs = python(code).splitlines()
    names = ("cli", "compat", "deferred", "moved", "support", "support.environment", "support.errors", "version")
    ours_expected = ["cmr_bench", *(f"cmr_bench.{name}" for name in names)]
    assert ours == str(ours_expected)
    assert theirs == "[]"


def test_help_names_every_command(capsys: Capture) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, (_, about) in cli.COMMANDS.items():
        assert f"  {name} " in out
        assert about in out


def test_the_help_of_commands_of_two_words_lists_them(capsys: Capture) -> None:
    assert cli.main(["data", "--help"]) == 0
    out = capsys.readouterr().out
    assert "usage: cmr-bench data COMMAND" in out
    listed = [line for line in out.splitlines() if line.startswith("  ")]
    assert [line.split("  ")[1] for line in listed] == [name for name in cli.COMMANDS if name.startswith("data ")]
    assert cli.main(["data"]) == 2
    assert capsys.readouterr().out == out


def test_no_command_shows_the_help_and_is_wrong_usage(capsys: Capture) -> None:
    assert cli.main([]) == 2
    assert "usage: cmr-bench COMMAND" in capsys.readouterr().out


def test_version(capsys: Capture) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cmr-bench {__version__}\n"


def test_python_dash_m_works_as_the_command_does(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "cmr_bench", "--version"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert answer.stdout == f"cmr-bench {__version__}\n"


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "run"])
def test_every_command_has_its_module_and_help(name: str, capsys: Capture) -> None:
    module = importlib.import_module(cli.COMMANDS[name][0])
    assert callable(module.add_arguments)
    assert callable(module.run)
    assert cli.main([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: cmr-bench {name} " in out
    assert cli.COMMANDS[name][1][1:] in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["leaderbord"], "unknown command 'leaderbord'. Did you mean 'leaderboard'?"),
        (["data", "chekc"], "unknown command 'data chekc'. Did you mean 'data check'?"),
        (["xyzzy"], "unknown command 'xyzzy'."),
        (["run"], "--model is missing: pass one of vsepp"),
        (["run", "--model"], "expected one argument"),
        (["run", "--modle", "vsepp"], "unknown option '--modle'. Did you mean '--model'?"),
        (["run", "vsepp"], "unknown option 'vsepp'."),
        (["run", "--model", "vsep"], "unknown method 'vsep'. Did you mean 'vsepp'?"),
        (["run", "--model", "cca", "--data", "flicker8k"], "unknown data set 'flicker8k'. Did you mean 'flickr8k'?"),
        (["run", "--model", "cca", "--data", "flickr8k", "--data.rot", "x"], "Did you mean '--data.root'?"),
        (["run", "--model", "cca", "--data", "flickr8k", "--data.batch_size", "many"], "batch_size"),
        (["run", "--model", "cca", "--seed", "x"], "--seed: invalid int value: 'x'"),
        (["run", "--model", "mine.py:Mine"], "mine.py is not a file"),
        (["run", "--model", "no_such_module:Mine"], "no module 'no_such_module'"),
        (["list", "--rot"], "unknown option '--rot'. Did you mean '--root'?"),
        (["list", "everything"], "nothing called 'everything' to list"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words: list[str], message: str, capsys: Capture) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("cmr-bench")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CmrBenchError("it broke"), 1, "cmr-bench list: error: it broke\n"),
        (CmrBenchError("a column named '\n', twice\r\n"), 1, "cmr-bench list: error: a column named ' ', twice\n"),
        (UsageError("wrong"), 2, "cmr-bench list: error: wrong\n"),
        (KeyboardInterrupt(), 1, "cmr-bench list: interrupted\n"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr("cmr_bench.commands.list.run", fail)
    assert cli.main(["list"]) == code
    assert capsys.readouterr().err == message


def test_a_reader_that_goes_away_gets_no_traceback(tmp_path: Path) -> None:
    code = "import sys; from cmr_bench.cli import main; sys.exit(main(['list', '--format', 'json'] ))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""


METHOD = """
from cmr_bench.models.base import RetrievalModule
from cmr_bench.datamodules.base import RetrievalDataModule

class Mine(RetrievalModule):
    family = "subspace"

class MyData(RetrievalDataModule):
    pass

class Neither:
    pass
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "random.py"
    file.write_text(METHOD)
    registry.trust(f"{file}:Mine")
    return file


def test_a_class_of_the_user_is_loaded_once_and_hides_no_library(own: Path) -> None:
    import random

    found = registry.method(f"{own}:Mine")
    assert issubclass(found, RetrievalModule)
    assert registry.method(f"{own}:Mine") is found
    assert sys.modules["random"] is random
    assert registry.family(f"{own}:Mine") == "subspace"
    assert issubclass(registry.dataset(f"{own}:MyData"), RetrievalDataModule)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Min", "has no class 'Min'. Did you mean 'Mine'?"),
        ("Neither", "is not a RetrievalModule: inherit from cmr_bench.models.base.RetrievalModule"),
        ("MyData", "is not a RetrievalModule"),
    ],
)
def test_a_class_that_is_not_there_or_no_method_is_wrong_usage(own: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry.method(f"{own}:{name}")
    assert message in str(caught.value)


def test_an_error_inside_the_file_of_the_user_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import no_such_library\n")
    registry.trust(f"{tmp_path / 'mine.py'}:Mine")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_library"):
            registry.method(f"{tmp_path / 'mine.py'}:Mine")


def test_a_suggestion_stays_on_one_line() -> None:
    assert did_you_mean("image", ["\nimage\u2028s"]) == " Did you mean 'image s'?"
    assert did_you_mean("image", []) == ""


def test_an_error_can_be_printed_whatever_name_is_in_it() -> None:
    assert str(CmrBenchError("no \ud800.jpg\nin é\u2028here")) == "no \\ud800.jpg in é here"


def test_notices_are_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write_photo: Callable[..., Path],
) -> None:
    shown = warnings.showwarning
    for k in range(10):
        write_photo(tmp_path / f"{k}.jpg", k)
    (tmp_path / "a.csv").write_text("image;caption\n" + "".join(f"{k}.jpg;a thing {k}\n" for k in range(10)) + "x\n")
    words = ["--model", "vsepp", "--data", "custom", "--data.root", str(tmp_path), "--model.image_view", "pixels"]
    words += ["--data.skip_invalid", "true", "--model.cnn", "nowhere:x", "--runs", str(tmp_path / "runs")]
    assert cli.main(["run", *words]) != 0
    notices = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cmr-bench run: custom: ")]
    assert notices[0] == "cmr-bench run: custom: a.csv: columns are separated by ';'; pass --data.separator to choose"
    assert notices[1].startswith("cmr-bench run: custom: 1 row(s) that cannot be read are skipped: ")
    assert warnings.showwarning is shown
