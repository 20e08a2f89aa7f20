"""A roll comes back as it was, never onto another base, and an interrupted save loses nothing."""

import dataclasses
import signal
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paligemma_files import open_hf, open_npz

from rolltune.errors import UserError
from rolltune.families import paligemma_names as names
from rolltune.weights.identity import base_hash
from rolltune.weights.names import flatten, load_tree, nest, stream, to_file
from rolltune.weights.npz import META, read_npz, write_npz
from rolltune.weights.roll_file import VERSION, Base, RollCard, load_roll, read_card, save_roll

BASE = Base("tiny", "ab" * 32)
CARD = RollCard(
    base=BASE,
    method="lora",
    recipe={"rank": 4, "alpha": 8.0},
    prompt="この広告は OK ですか",
    answers=["OK", "NG"],
    metrics={"valid": {"f": 0.5}, "positive": None},
    seed=7,
)
TREE = {"text": {"layers": {"attn": {"q": {"kernel": {"a": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}}}}}}


def test_a_roll_comes_back(tmp_path):
    tree = {**TREE, "b": np.array([1.5, -2.0], ml_dtypes.bfloat16)}
    save_roll(tmp_path / "r.npz", tree, CARD)
    roll = load_roll(tmp_path / "r.npz", BASE)
    assert roll.card == CARD == read_card(tmp_path / "r.npz")
    before, after = flatten(tree), flatten(roll.tree)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype
        np.testing.assert_array_equal(before[name], after[name])
    plain = np.load(tmp_path / "r.npz", allow_pickle=False)
    assert plain["b"].dtype.str == "|V2" and plain["text/layers/attn/q/kernel/a"].shape == (2, 3, 4)
    assert [file.name for file in tmp_path.iterdir()] == ["r.npz"]


@pytest.mark.parametrize("positive", ["OK", None])  # of three answers, or of written ones, none is
def test_a_roll_comes_back_with_or_without_a_positive_answer(tmp_path, positive):
    card = RollCard(base=BASE, method="lora", recipe={}, metrics={"passes": 1, "positive": positive})
    save_roll(tmp_path / "r.npz", TREE, card)
    assert load_roll(tmp_path / "r.npz", BASE).card == card


@pytest.mark.parametrize("read", [read_card, load_roll])
def test_a_roll_of_a_later_version_is_refused_though_all_else_is_known(tmp_path, read):
    save_roll(tmp_path / "r.npz", TREE, dataclasses.replace(CARD, version=VERSION))
    assert read(tmp_path / "r.npz")
    save_roll(tmp_path / "r.npz", TREE, dataclasses.replace(CARD, version=VERSION + 1))
    with pytest.raises(UserError, match=rf"has format {VERSION + 1}; .* reads up to {VERSION}\. Update rolltune"):
        read(tmp_path / "r.npz")


def test_half_precision_halves_the_file(tmp_path):
    tree = {"w": np.ones((64, 1024), np.float32)}
    save_roll(tmp_path / "r.npz", tree, CARD, dtype=ml_dtypes.bfloat16)
    assert (tmp_path / "r.npz").stat().st_size < 64 * 1024 * 2 + 4096
    assert load_roll(tmp_path / "r.npz").tree["w"].dtype == ml_dtypes.bfloat16


def test_another_base_is_refused_and_both_are_named(tmp_path):
    save_roll(tmp_path / "r.npz", TREE, CARD)
    with pytest.raises(UserError, match=r"trained on tiny \(abababababab\), but .* paligemma-3b \(cdcdcdcdcdcd\)"):
        load_roll(tmp_path / "r.npz", Base("paligemma-3b", "cd" * 32))
    with pytest.raises(UserError, match="the same name, but other weights"):
        load_roll(tmp_path / "r.npz", Base("tiny", "cd" * 32))


def test_what_is_no_roll_never_replaces_a_good_file(tmp_path):
    save_roll(tmp_path / "r.npz", TREE, CARD)
    for kind in (np.float32, ml_dtypes.bfloat16):
        with pytest.raises(UserError, match="NaN or infinity in text/w"):
            save_roll(tmp_path / "r.npz", {"text": {"w": np.array([1, np.nan], kind)}}, CARD)
    for tree in ({}, {META: np.ones(2)}, TREE | {META: np.ones(2, np.float32)}, {"w": np.array(["text"])}):
        with pytest.raises(ValueError, match=r"a roll needs named arrays|not float32"):
            save_roll(tmp_path / "r.npz", tree, CARD)
    assert load_roll(tmp_path / "r.npz").card == CARD


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_errors_not_tracebacks(tmp_path, data):
    save_roll(tmp_path / "r.npz", TREE, CARD)
    good = (tmp_path / "r.npz").read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    cut = data.draw(st.booleans())
    byte = data.draw(st.integers(1, 255))
    bad = good[:at] if cut else good[:at] + bytes([good[at] ^ byte]) + good[at + 1 :]
    (tmp_path / "bad.npz").write_bytes(bad)
    try:
        roll = load_roll(tmp_path / "bad.npz", BASE)
    except UserError:
        return
    # What was not noticed must have changed nothing (time stamps and the like in the zip's own records).
    assert roll.card == CARD
    np.testing.assert_array_equal(flatten(roll.tree)["text/layers/attn/q/kernel/a"], flatten(TREE).popitem()[1])


def test_foreign_files_say_what_they_are(tmp_path, oracle):
    with pytest.raises(UserError, match="is no roll: it has no entry"):
        load_roll(oracle("paligemma1/bv_f32.npz"))
    save_roll(tmp_path / "r.npz", TREE, CARD)
    with pytest.raises(UserError, match="is a roll"):
        read_npz(tmp_path / "r.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    for name, content in (("empty", b""), ("text", b"hello"), ("picture", b"\x89PNG\r\n\x1a\n" + bytes(99))):
        (tmp_path / name).write_bytes(content)
    for name in ("single.npy", "empty", "text", "picture", "absent", "."):
        with pytest.raises(UserError) as refused:
            load_roll(tmp_path / name)
        assert "allow_pickle" not in str(refused.value)  # NumPy's advice, which is dangerous
    np.savez(tmp_path / "pickled.npz", __rolltune__=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match=r"is no roll: .* \(pickle\), which are never loaded"):
        load_roll(tmp_path / "pickled.npz")
    np.savez(tmp_path / "later.npz", __rolltune__=np.frombuffer(b'{"version": 99}', np.uint8))
    with pytest.raises(UserError, match="Update rolltune"):
        load_roll(tmp_path / "later.npz")


WRITER = """
    import resource, signal, sys
    import numpy as np
    from rolltune.weights.roll_file import Base, RollCard, save_roll
    card = RollCard(base=Base("tiny", "ab" * 32), method="lora", recipe={}, seed=2)
    if sys.argv[2] == "kill":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel then kills at the byte that is one too many
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
    save_roll(sys.argv[1], {"w": np.full((100, 100), 2, np.float32)}, card)
"""


def write_with_limit(path, how: str, limit: int) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), how, str(limit)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a system that limits the size of files")
def test_a_kill_at_any_byte_leaves_the_earlier_file_whole(tmp_path):
    path = tmp_path / "r.npz"
    save_roll(path, {"w": np.ones((100, 100), np.float32)}, CARD)
    earlier = path.read_bytes()
    for limit in (0, 1, 100, 5_000, 39_000, len(earlier) - 700):
        ended = write_with_limit(path, "kill", limit)
        assert ended.returncode == -signal.SIGXFSZ, ended.stderr
        assert path.read_bytes() == earlier
    assert len(list(tmp_path.glob("*.npz"))) == 1  # what a kill leaves behind is not taken for a checkpoint
    assert write_with_limit(path, "kill", 1_000_000).returncode == 0
    assert load_roll(path).card.seed == 2


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a system that limits the size of files")
def test_a_failed_write_says_so_and_cleans_up(tmp_path):
    path = tmp_path / "r.npz"
    save_roll(path, {"w": np.ones(3, np.float32)}, CARD)
    earlier = path.read_bytes()
    ended = write_with_limit(path, "fail", 5_000)
    assert "NotWritten: could not write" in ended.stderr and "Nothing was changed" in ended.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["r.npz"] and path.read_bytes() == earlier


def test_base_hash_is_of_the_weights_not_of_the_file(oracle, tmp_path):
    limits = {"text/embed/embedding": 288}
    lazy, rows, _ = open_npz(oracle("paligemma1/bv_f32.npz"))
    wanted = base_hash(stream(lazy, rows), limits)
    half = load_tree(lazy, rows, dtype=ml_dtypes.bfloat16)
    write_npz(tmp_path / "bf16.npz", to_file(half, rows))
    for source in (open_npz(tmp_path / "bf16.npz"), open_hf(oracle("paligemma1/hf_published"))):
        assert base_hash(stream(*source[:2]), limits) == wanted
    assert base_hash(half, limits) == wanted


def test_base_hash_notices_one_weight(oracle):
    lazy, rows, _ = open_npz(oracle("paligemma1/bv_f32.npz"))
    tree = load_tree(lazy, rows)
    wanted = base_hash(tree)
    assert base_hash(load_tree(*open_npz(oracle("paligemma2/bv_f32.npz"))[:2])) != wanted
    tree["vision"]["layers"]["mlp"]["up"]["kernel"][1, 3, 5] *= 1.02
    changed = base_hash(tree)
    assert changed != wanted
    tree["vision"]["norm"]["scale"], tree["vision"]["norm"]["bias"] = tree["vision"]["norm"].values()
    assert base_hash(tree) == changed
    flat = flatten(tree)
    flat["vision/norm/scale"], flat["vision/norm/bias"] = flat["vision/norm/bias"], flat["vision/norm/scale"]
    assert base_hash(nest(flat.items())) != changed


def test_base_hash_notices_a_name_and_a_shape():
    ramp = np.arange(6, dtype=np.float32)
    trees = ({"a": ramp.reshape(2, 3)}, {"a": ramp.reshape(3, 2)}, {"a": ramp}, {"b": ramp})
    assert len({base_hash(tree) for tree in trees}) == len(trees)
    assert base_hash({"a": ramp, "b": ramp}) == base_hash([("b", ramp), ("a", ramp)])


def test_sizes_name_what_is_missing(oracle):
    shapes = {name: t.shape for name, t in read_npz(oracle("paligemma1/bv_f32.npz")).items()}
    shapes.pop("img/pos_embedding")
    shapes["llm/layers/mlp/linear"] = (80, 48)
    with pytest.raises(UserError, match=r"no img/pos_embedding\n.*linear has shape \[80, 48\], wanted are 3 axes"):
        names.sizes_from_npz(shapes)
