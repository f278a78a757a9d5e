"""dev.py answers mistakes in one line and installs exactly when something changed. No pip runs here."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dev


class FakeRunner:
    """Records the programs it is asked to run, makes what `venv` would, and fails where it is told to."""

    def __init__(self):
        self.calls: list[list[str]] = []
        self.streams: list[dict] = []
        self.failing: dict[str, int] = {}
        self.environment: dev.Environment

    def __call__(self, argv, **streams) -> int:
        words = argv[2:]
        self.calls.append(words)
        self.streams.append(streams)
        if words[0] == "venv":
            self.environment.python.parent.mkdir(parents=True, exist_ok=True)
            self.environment.python.touch()
        return self.failing.get(" ".join(words[:2]), self.failing.get(words[0], 0))

    def ran(self, *words: str) -> bool:
        return any(tuple(call[: len(words)]) == words for call in self.calls)


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def environment(tmp_path: Path, runner: FakeRunner) -> dev.Environment:
    (tmp_path / "requirements").mkdir()
    for name in ("studio", "dev"):
        (tmp_path / "requirements" / f"{name}.txt").write_text(f"{name}-package==1\n", encoding="utf-8")
    runner.environment = dev.Environment(tmp_path, runner)
    return runner.environment


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_lists_every_command_on_a_line_of_its_own(argv, environment, runner, capsys):
    assert dev.main(argv, environment) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, command in dev.COMMANDS.items():
        assert sum(line.split()[:1] == [name] and line.endswith(command.help) for line in lines) == 1
    assert not runner.calls


@pytest.mark.parametrize("argv", [["tset"], ["bench"], ["webui"], ["--verbose"], [""]])
def test_a_mistake_costs_one_line_and_no_installation(argv, environment, runner, capsys):
    assert dev.main(argv, environment) == 2
    captured = capsys.readouterr()
    assert one_line(captured.err).startswith("error: ")
    assert not captured.out
    assert not runner.calls


def test_unknown_command_as_the_shell_sees_it():
    done = subprocess.run([sys.executable, dev.__file__, "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'nonsense'" in one_line(done.stderr)


def test_test_checks_first_and_hands_its_arguments_to_pytest(environment, runner):
    assert dev.main(["test", "-k", "geometry"], environment) == 0
    assert runner.calls[-4:] == [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["pytest", "-k", "geometry"]]


def test_the_demo_hands_its_arguments_on(environment, runner):
    assert dev.main(["demo", "--steps", "4"], environment) == 0
    assert runner.calls[-1] == ["bench.demo", "--steps", "4"]


def test_hosts_stands_for_the_suite_in_a_real_webui(environment, runner):
    assert dev.main(["test", "hosts", "--json", "out.json"], environment) == 0
    assert runner.calls[-1] == ["pytest", "-m", "live", "tests/hosts", "--json", "out.json"]


def test_a_path_is_seen_from_where_the_user_stands(environment, runner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dev.main(["webui", "my webui", "--remove"], environment) == 0
    assert runner.calls == [["seal_ext.install.webui", str(tmp_path / "my webui"), "--remove"]]  # and no environment is made for that
    assert not environment.folder.exists()


def test_the_studio_runs_where_the_user_stands(environment, runner, tmp_path, monkeypatch):
    assert dev.main(["studio", "mask", "--reference", "x.png"], environment) == 0
    assert runner.calls[-1] == ["seal_ext.studio", "mask", "--reference", "x.png"] and runner.streams[-1] == {"there": True}
    assert dev.main(["demo"], environment) == 0 and runner.streams[-1] == {}
    monkeypatch.chdir(tmp_path)
    told = "import os, seal_ext, pathlib; pathlib.Path('told').write_text(os.path.dirname(seal_ext.__file__))"
    assert dev.run([sys.executable, "-c", told], there=True) == 0
    assert Path((tmp_path / "told").read_text()) == dev.ROOT / "seal_ext"


@pytest.mark.parametrize("step", ["ruff check", "ruff format", "mypy"])
def test_what_a_check_finds_stops_before_the_tests(step, environment, runner):
    runner.failing[step] = 1
    assert dev.main(["test"], environment) == 1
    assert not runner.ran("pytest")


def test_the_exit_code_of_the_command_is_passed_on(environment, runner):
    runner.failing["bench.train"] = 130
    assert dev.main(["train", "--steps", "3"], environment) == 130
    assert runner.calls[-1] == ["bench.train", "--steps", "3"]


def test_the_first_call_makes_the_environment_and_the_second_does_nothing(environment, runner):
    assert environment.prepare(("studio", "dev")) == 0
    assert [call[0] for call in runner.calls] == ["venv", "pip"]
    runner.calls.clear()
    assert environment.prepare(("studio", "dev")) == 0
    assert environment.prepare(("studio",)) == 0
    assert not runner.calls


def test_a_changed_pin_is_installed(environment, runner):
    environment.prepare(("studio", "dev"))
    runner.calls.clear()
    environment.requirements("dev").write_text("dev-package==2\n", encoding="utf-8")
    environment.prepare(("studio",))
    assert not runner.calls
    environment.prepare(("studio", "dev"))
    assert runner.ran("pip", "install")


def test_windows_line_ends_are_no_change(environment, runner):
    environment.prepare(("studio",))
    runner.calls.clear()
    environment.requirements("studio").write_bytes(b"studio-package==1\r\n")
    environment.prepare(("studio",))
    assert not runner.calls


def test_a_failed_install_is_reported_and_done_again(environment, runner, capsys):
    environment.prepare(("studio",))
    environment.requirements("studio").write_text("studio-package==2\n", encoding="utf-8")
    runner.failing["pip install"] = 1
    assert dev.main(["train"], environment) == 1
    assert "error: " in capsys.readouterr().err
    assert not runner.ran("bench.train")
    # back to the first pin: what the failed install left behind is unknown, so the old stamp must not count
    environment.requirements("studio").write_text("studio-package==1\n", encoding="utf-8")
    runner.failing.clear()
    runner.calls.clear()
    assert environment.prepare(("studio",)) == 0
    assert runner.ran("pip", "install")


def test_an_environment_made_by_hand_is_adopted(environment, runner):
    environment.python.parent.mkdir(parents=True)
    environment.python.touch()
    assert environment.prepare(("studio",)) == 0
    assert not runner.ran("venv")
    assert runner.ran("pip", "install")


def test_an_environment_without_pip_is_completed_and_not_emptied(environment, runner):
    environment.python.parent.mkdir(parents=True)
    environment.python.touch()
    runner.failing["pip --version"] = 1
    assert environment.prepare(("studio",)) == 0
    assert runner.ran("venv")
    assert not runner.ran("venv", "--clear")


def test_an_environment_whose_python_is_gone_is_made_anew(environment, runner):
    environment.prepare(("studio",))
    environment.python.unlink()
    runner.calls.clear()
    assert environment.prepare(("studio",)) == 0
    assert runner.ran("venv", "--clear")


def test_a_venv_that_cannot_be_made_is_reported(environment, runner, capsys):
    runner.failing["venv"] = 1
    assert environment.prepare(("studio",)) == 1
    assert "python3-venv" in capsys.readouterr().err
    assert not runner.ran("pip", "install")


def test_every_command_names_requirements_that_exist_and_are_pinned():
    for command in dev.COMMANDS.values():
        for name in command.needs:
            lines = (dev.ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
            assert all("==" in line for line in lines if not line.startswith("#"))


@pytest.fixture
def terminate_restored():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("terminate_restored")
class TestRun:
    def test_passes_the_exit_code_on(self):
        assert dev.run([sys.executable, "-c", "raise SystemExit(7)"]) == 7

    @pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
    def test_reports_a_signal_as_a_shell_would(self):
        assert dev.run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"]) == 128 + signal.SIGTERM

    @pytest.mark.parametrize(("chosen", "seen"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
    def test_idle_threads_sleep_unless_the_user_chose(self, chosen, seen, monkeypatch):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if chosen:
            monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
        assert dev.run([sys.executable, "-c", f"import os; raise SystemExit(os.environ['OMP_WAIT_POLICY'] != {seen!r})"]) == 0
