"""A base that is cut over two hosts' cards trains, is saved, scores and writes as on one card."""

from pathlib import Path

import numpy as np
import over_groups
import over_hosts
import pytest
from over_groups import go
from over_hosts import CASES, SAVED, trained
from pair import ROOT, Pair

from rolltune.training import checkpoints, loop


@pytest.fixture
def small_states(monkeypatch):
    """As `over_hosts.run_of` sets them."""
    for module in (over_hosts.optim, over_hosts.cut):
        monkeypatch.setattr(module, "SMALL", module.SMALL)
    monkeypatch.setattr(over_hosts.sharding, "AT_ONCE", over_hosts.sharding.AT_ONCE)


def test_two_hosts_that_share_a_base_equal_one_card(tmp_path, small_states):
    """One group over both hosts, and a group on each. What they saved is gone on with on one card, too."""
    command = [str(Path(over_hosts.__file__)), str(tmp_path)]
    pair = Pair(tmp_path, command, (tmp_path, tmp_path), PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    runs = {name: over_hosts.run_of(name, None) for name in CASES}
    expected, losses = {}, {name: [] for name in CASES}
    for name, (_, rolls, _) in CASES.items():
        expected[name] = trained(go(runs[name], rolls, losses=losses[name]))
    scored = over_groups.judged(None, 2)
    pair.ended(0, 0)
    for name in CASES:
        found = np.load(tmp_path / f"{name}.npz")
        np.testing.assert_allclose(found["losses"], losses[name], rtol=1e-4)
        near(found, expected[name])
    resumed = checkpoints.load(tmp_path / SAVED, {}, loop.new_state(runs[SAVED], 1), over_hosts.judged)
    assert resumed.step == 2
    near(trained(go(runs[SAVED], 1, resumed)), expected[SAVED])
    found = np.load(tmp_path / "judged.npz")
    assert found["texts"].tolist() == [list(one.texts) for one in scored]
    np.testing.assert_allclose(found["scores"], [one.log_probs for one in scored], rtol=1e-4, atol=1e-5)


def near(found, expected):
    assert expected
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-3, atol=4e-4, err_msg=path)
