"""The bench's command line: mistakes cost one line, and no seed leaves its split."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import __main__ as dispatch
from bench.cli import Parser, UserError, run, seed_range
from bench.seeds import DEVELOPMENT, FINAL, FORMER, RESERVED, SPLITS, TRAIN, split_of


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("seed", "split"),
    [
        (0, "development"),
        (89_999, "development"),
        (90_000, "reserved"),
        (900_000, "former"),
        (909_999, "former"),
        (920_000, "final"),
        (929_999, "final"),
        (1_000_000, "train"),
        (2**40, "train"),
    ],
)
def test_a_seed_belongs_to_its_split(seed, split):
    assert split_of(seed) == split


@pytest.mark.parametrize("seed", [-1, 100_000, 899_999, 910_000, 919_999, 930_000, 999_999])
def test_a_seed_between_the_splits_belongs_to_none(seed):
    with pytest.raises(ValueError, match=str(seed)):
        split_of(seed)


@given(st.integers(min_value=-10, max_value=TRAIN.start + 10))
def test_no_seed_has_two_splits(seed):
    assert sum(seed in split for split in SPLITS.values()) <= 1


@pytest.mark.parametrize(("split", "final"), [(DEVELOPMENT, False), (RESERVED, False), (FORMER, False), (FINAL, True)])
@given(data=st.data())
def test_a_range_inside_its_split_is_read_as_written(split, final, data):
    start = data.draw(st.integers(split.start, split.stop - 1))
    stop = data.draw(st.integers(start + 1, split.stop))
    assert seed_range(f"{start}:{stop}", final) == range(start, stop)


MALFORMED = ["", ":", "5", "5:", ":5", "a:b", "1:2:3", "-5:5", "1.0:2", " 1:2", "1:2\n", "٣:٤", "1_0:20", "9" * 5000 + ":1"]
EMPTY = ["5:5", "9:3", "920005:920005"]
OUTSIDE = ["89999:90001", "99999:100001", "899999:900001", "909999:910001", "919999:920001", "929999:930001", "1000000:1000001"]


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("text", [*MALFORMED, *EMPTY, *OUTSIDE])
def test_any_other_range_is_refused_in_a_sentence_that_names_the_valid_one(text, final):
    with pytest.raises(UserError, match="920000:930000" if final else "0:90000 or 90000:100000 or 900000:910000"):
        seed_range(text, final)


def test_the_final_test_is_out_of_reach_of_development_and_the_other_way_round():
    with pytest.raises(UserError, match="out of range"):
        seed_range("920000:920010", final=False)
    with pytest.raises(UserError, match="out of range"):
        seed_range("0:10", final=True)


def test_nothing_is_tuned_on_the_reserved_seeds():
    with pytest.raises(UserError, match="tuning seeds are 0:90000 or 900000:910000"):
        seed_range("90000:90010", final=False, tuning=True)


@pytest.mark.parametrize("argv", [["--count", "many"], ["--unknown"], ["a\nb"]])
def test_the_parser_answers_a_mistake_with_one_line(argv, capsys):
    parser = Parser()
    parser.add_argument("--count", type=int)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(argv)
    assert stop.value.code == 2
    one_line(capsys.readouterr().err)


def test_a_user_error_becomes_one_line_and_exit_code_2(capsys):
    def main(argv):
        raise UserError(f"no picture\nat {argv[0]}")

    assert run(main, ["here"]) == 2
    assert one_line(capsys.readouterr().err) == "error: no picture at here"


def test_a_mistake_of_ours_is_not_hidden():
    def main(argv):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        run(main, [])


def test_ctrl_c_is_quiet(capsys):
    def main(argv):
        raise KeyboardInterrupt

    assert run(main, []) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("argv", [[], ["modle"]])
def test_a_wrong_report_is_answered_with_the_right_ones(argv, capsys):
    assert run(dispatch.main, argv) == 2
    line = one_line(capsys.readouterr().err)
    assert all(name in line for name in dispatch.REPORTS)


def test_a_report_gets_the_remaining_arguments_and_gives_the_exit_code(monkeypatch):
    class Report:
        @staticmethod
        def main(argv):
            assert argv == ["--json", "out.json"]
            return 3

    monkeypatch.setattr(dispatch, "import_module", lambda name: {"bench.model_report": Report}[name])
    assert dispatch.main(["model", "--json", "out.json"]) == 3


def test_a_wrong_report_is_answered_without_loading_torch(pytestconfig):
    program = "import sys; from bench import __main__ as m; from bench.cli import run; run(m.main, ['x']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=pytestconfig.rootpath, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
