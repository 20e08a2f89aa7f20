"""What a compiled program sets aside, by what its compiler says."""

import threading
import types

import jax
import pytest

from rolltune import programs
from rolltune.programs import Program


def test_a_programs_part_of_each_layer_is_what_it_grows_by():
    found = programs.deepened(Program(140, 5, 20), Program(180, 7, 24), (4, 8), 18)
    assert found == Program(temporary=100, workspace=7, output=34, activations=180)
    assert programs.deepened(Program(90, 0, 0), Program(80, 0, 0), (4, 8), 8) == Program(80, 0, 0, 0)


def test_what_a_compiled_program_says_of_itself_is_told_apart():
    """Outputs that replace inputs are none; a workspace is part of the temporaries, and a GPU's alone."""
    said = lambda temporary: types.SimpleNamespace(
        output_size_in_bytes=100, alias_size_in_bytes=30, temp_size_in_bytes=temporary
    )
    program = lambda temporary: types.SimpleNamespace(
        memory_analysis=lambda: said(temporary), as_text=lambda: "%b = s8[20]{0} custom-call(%x)"
    )
    assert programs._analysis(program(50), "a card") == Program(30, 20, 70)
    assert programs._analysis(program(10), "a card") == Program(0, 10, 70)
    if jax.default_backend() != "gpu":
        assert programs._analysis(program(50), None) == Program(50, 0, 70)
    assert Program(1, 2, 4, 8).total == 15


def test_the_largest_workspace_counts_once():
    text = """
  %a = (bf16[8]{0}, s8[4194304]{0}) custom-call(%x), custom_call_target="__cublas$gemm"
  %b = s8[33554432]{0} custom-call(%x)
  %c = s8[99999999]{0} fusion(%x)
"""
    assert programs.workspace_of(text) == 33554432
    assert programs.workspace_of("  %a = (bf16[8,2]{1,0}, s8[4194304]{0}) custom-call(%x)") == 4194304


@pytest.fixture
def kept(monkeypatch):
    """`kept(folder)`: programs are kept there, or nowhere; one is compiled at a time."""
    monkeypatch.setattr(programs.os, "cpu_count", lambda: 1)

    def keep(folder):
        config = types.SimpleNamespace(jax_compilation_cache_dir=folder)
        monkeypatch.setattr(programs, "jax", types.SimpleNamespace(process_count=lambda: 1, config=config))

    return keep


def test_what_is_compiled_ahead_is_waited_for_by_part_and_never_fails_there(kept):
    kept("here")
    done, go = [], threading.Event()
    jobs = [("score", lambda: 1 / 0), ("score", lambda: done.append("score")), ("step", go.wait)]
    never = lambda: False
    with programs.Ahead() as ahead:
        ahead.begin([*jobs, ("step", lambda: done.append("step"))])
        ahead.wait(never, but="step")
        assert done == ["score"]
        go.set()
        ahead.wait(never)
        assert done == ["score", "step"]


def test_a_stop_leaves_off_what_has_not_begun(kept):
    kept("here")
    done, begun, go = [], threading.Event(), threading.Event()
    with programs.Ahead() as ahead:
        ahead.begin([("step", lambda: (begun.set(), go.wait())), ("step", lambda: done.append("step"))])
        begun.wait()
        ahead.wait(lambda: True)
    go.set()
    ahead._pool.shutdown(wait=True)
    assert not done


def test_nothing_is_compiled_ahead_that_no_cache_would_keep(kept):
    kept(None)
    with programs.Ahead() as ahead:
        ahead.begin([("step", lambda: pytest.fail("compiled"))])
        assert not ahead._begun
