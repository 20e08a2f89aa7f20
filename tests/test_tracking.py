import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from event_scalars import scalars
from rich.console import Console

from rolltune import tracking
from rolltune.errors import UserError


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, soft_wrap=True, highlight=False, _environ={})


def test_the_printed_line_is_the_one_people_know():
    assert tracking.step_line(32, 256, 0.029951, 0.34169) == "step: 32/256   lr: 0.02995   loss: 0.3417"
    assert tracking.step_line(1, 9, 3e-6, float("nan")) == "step: 1/9   lr: 3.000e-06   loss: nan"
    assert tracking.step_line(1, 9, 0.0, 1.0).endswith("lr: 0.00000   loss: 1.0000")


def test_one_roll_prints_plain_lines_without_a_terminal():
    out = console(terminal=False)
    with tracking.LiveRolls(256, [0], out) as live:
        live.show(32, [0.34169], [0.029951])
        live.say("[saved] checkpoints/a.npz")
    assert out.file.getvalue() == "step: 32/256   lr: 0.02995   loss: 0.3417\n[saved] checkpoints/a.npz\n"


def test_several_rolls_print_a_line_each_without_a_terminal():
    out = console(terminal=False)
    with tracking.LiveRolls(256, [0, 1], out) as live:
        live.show(32, [0.5, 0.25], [0.03, 0.01], ["died", "alive"])
        live.rank("f-measure", [(roll, "0.5") for roll in range(9)])
        live.rolls = [2, 1]
        live.show(64, [0.4, 0.2], [0.03, 0.01], steps=[32, 64])
    assert out.file.getvalue().splitlines() == [
        "roll: 0   step: 32/256   lr: 0.03000   loss: 0.5000   died",
        "roll: 1   step: 32/256   lr: 0.01000   loss: 0.2500",
        "f-measure so far: " + ", ".join(f"roll {roll} 0.5" for roll in range(8)) + ", and 1 more",
        "roll: 2   step: 32/256   lr: 0.03000   loss: 0.4000",
        "roll: 1   step: 64/256   lr: 0.01000   loss: 0.2000",
    ]


def test_the_last_of_several_rolls_is_named():
    out = console(terminal=False)
    with tracking.LiveRolls(256, [3], out, several=True) as live:
        live.show(32, [0.5], [0.03])
    assert out.file.getvalue() == "roll: 3   step: 32/256   lr: 0.03000   loss: 0.5000\n"
    assert tracking.by_roll([3], True, loss=[0.5]) == {"roll 3/loss": 0.5}


def test_a_terminal_gets_a_table_of_all_rolls_and_no_lines():
    out = console(terminal=True)
    with tracking.LiveRolls(256, [0, 1], out) as live:
        live.show(32, [0.5, 0.25], [0.03, 0.01], ["died", "alive"])
        live.rank("precision", [(1, "0.75")])
        live.say("roll 0 died")
    text = out.file.getvalue()
    for part in (
        "roll",
        "0.03000",
        "0.2500",
        "died",
        "alive",
        "32/256",
        "roll 0 died",
        "precision so far: roll 1 0.75",
    ):
        assert part in text
    assert "loss: " not in text


def test_one_roll_on_a_terminal_keeps_its_lines():
    out = console(terminal=True)
    with tracking.LiveRolls(256, [0], out) as live:
        live.show(32, [0.34169], [0.029951])
    assert "step: 32/256   lr: 0.02995   loss: 0.3417\n" in out.file.getvalue()


def test_progress_passes_everything_on_and_is_silent_without_a_terminal():
    quiet, seen = console(terminal=False), console(terminal=True)
    assert list(tracking.progress(iter("abc"), "scoring", 3, quiet)) == ["a", "b", "c"]
    assert quiet.file.getvalue() == ""
    assert list(tracking.progress(iter("abc"), "scoring", 3, seen)) == ["a", "b", "c"]
    assert "scoring" in seen.file.getvalue()


def records(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_each_step_is_on_disk_at_once_and_valid_json(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    file = tracking.MetricsFile(path)
    file.log(1, {"loss": float("nan"), "lr": 0.1})
    assert records(path) == [{"step": 1, "loss": "NaN", "lr": 0.1}]  # before it is closed
    file.log(2, tracking.by_roll([0, 3], loss=[0.5, 0.25]))
    file.close()
    assert records(path)[1] == {"step": 2, "roll 0/loss": 0.5, "roll 3/loss": 0.25}


def test_resuming_keeps_what_was_before_and_drops_the_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    file = tracking.MetricsFile(path, resume_step=2)
    file.log(3, {"loss": 0.5})
    file.close()
    assert records(path) == [{"step": 1, "a": 1}, {"step": 2}, {"step": 3, "loss": 0.5}]
    path.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl:2: not a record .*'rubbish'"):
        tracking.MetricsFile(path, resume_step=2)
    assert "rubbish" in path.read_text()
    tracking.MetricsFile(path).close()
    assert path.read_text() == ""  # a new run


def test_one_roll_is_logged_under_bare_names():
    assert tracking.by_roll([0], loss=[0.5], lr=[0.1]) == {"loss": 0.5, "lr": 0.1}


def test_every_sink_gets_the_figures_and_is_closed_after_an_error():
    calls = []

    class Sink:
        def __init__(self, name):
            self.name = name

        def log(self, step, figures):
            calls.append((self.name, step, dict(figures)))

        def close(self):
            calls.append((self.name, "closed"))

    with pytest.raises(KeyError), tracking.open_sinks([Sink("a"), Sink("b")]) as sinks:
        sinks.log(1, {"loss": 0.5})
        raise KeyError
    assert calls == [("a", 1, {"loss": 0.5}), ("b", 1, {"loss": 0.5}), ("b", "closed"), ("a", "closed")]


def test_a_sink_on_a_full_disk_is_left_out_and_the_run_goes_on(capsys):
    class Full:
        def log(self, step, figures):
            raise OSError(28, "No space left on device")

        def close(self): ...

    steps = []

    class Good:
        def log(self, step, figures):
            steps.append(step)

        def close(self): ...

    with tracking.open_sinks([Full(), Good()]) as sinks:
        for step in (1, 2):
            sinks.log(step, {"loss": 0.5})
    assert steps == [1, 2] and capsys.readouterr().err.count("No space left") == 1


def test_a_sink_that_is_not_installed_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"--wandb needs .*pip install 'rolltune\[wandb"):
        tracking.WeightsAndBiases(tmp_path, "a", "b", {})


def test_each_roll_is_a_run_of_tensorboard_at_its_own_steps(tmp_path):
    board = tracking.TensorBoard(tmp_path)
    board.log(8, {"time": 5.0, "roll 0/loss": 0.5, "roll 0/step": 8, "roll 2/loss": 0.25, "roll 2/step": 3, "speed": 9})
    board.log(16, {"roll 2/loss": 0.125, "roll 2/valid/f-measure": 0.75, "roll 2/step": 11, "state": "alive"})
    board.close()
    assert scalars(tmp_path) == {"speed": [(8, 9.0)]}
    assert scalars(tmp_path / "roll0") == {"loss": [(8, 0.5)]}
    assert scalars(tmp_path / "roll2") == {"loss": [(3, 0.25), (11, 0.125)], "valid/f-measure": [(11, 0.75)]}


def test_going_on_doubles_no_step_in_either_file(tmp_path):
    path, folder = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    file, board = tracking.MetricsFile(path), tracking.TensorBoard(folder)
    for step, loss in ((1, 0.5), (2, float("nan")), (3, 0.25)):
        for sink in (file, board):
            sink.log(step, {"time": 100.0 + step, "loss": loss})
    file.close()
    file = tracking.MetricsFile(path, resume_step=2)
    board = tracking.TensorBoard(folder, file.records)
    for sink in (file, board):
        sink.log(3, {"time": 200.0, "loss": 0.125})
    file.close()
    (_, first), (step, odd), last = scalars(folder)["loss"]
    assert (first, step, last) == (0.5, 2, (3, 0.125)) and odd != odd
    assert [(one["step"], one["loss"]) for one in records(path)] == [(1, 0.5), (2, "NaN"), (3, 0.125)]
    tracking.TensorBoard(folder)
    assert not folder.exists()  # a new run


@pytest.mark.parametrize(("environment", "mode"), [(None, "offline"), ("online", "online")])
def test_wandb_sends_nothing_unless_the_environment_says_so(monkeypatch, tmp_path, environment, mode):
    asked = {}
    run = SimpleNamespace(log=lambda figures, step: asked.update(logged=(step, figures)), finish=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **kw: asked.update(kw) or run))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    sink = tracking.WeightsAndBiases(tmp_path / "wandb", "ads", "set1", {"rate": 0.03, "folder": tmp_path})
    sink.log(3, {"time": 1.0, "loss": 0.5})
    sink.close()
    assert asked["mode"] == mode
    assert asked["config"] == {"rate": 0.03, "folder": tmp_path.as_posix()}
    assert asked["logged"] == (3, {"loss": 0.5})


def test_importing_it_loads_neither_jax_nor_the_optional_sinks():
    script = "import sys, rolltune.tracking; print([m for m in ('jax', 'wandb') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"
