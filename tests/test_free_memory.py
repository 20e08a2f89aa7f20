"""What a card has free, by whoever knows, and sizes as they are typed."""

import types

import jax
import pytest

from rolltune import free_memory
from rolltune.errors import UserError

GIB = 2**30


@pytest.mark.parametrize(
    "stats, on_card, free",
    [
        (None, 8 * GIB, None),  # a CPU
        ({"bytes_limit": 10 * GIB, "bytes_in_use": 4 * GIB}, 8 * GIB, 6 * GIB),
        ({"bytes_limit": 0, "bytes_in_use": 4 * GIB}, 3 * GIB, 3 * GIB),  # CUDA's own
        ({"bytes_limit": 0, "bytes_in_use": 4 * GIB}, None, None),
    ],
)
def test_what_is_free_by_each_allocator(monkeypatch, stats, on_card, free):
    """Of several cards the fullest one counts; a display's small card is none of them."""
    emptier = stats and stats | {"bytes_in_use": 0}
    card = lambda kind, own: types.SimpleNamespace(device_kind=kind, memory_stats=lambda: own)
    cards = [card("large", emptier), card("large", stats), card("small", {"bytes_limit": 1, "bytes_in_use": 0})]
    monkeypatch.setattr(jax, "local_devices", lambda: cards)
    monkeypatch.setattr(free_memory, "free_on_card", lambda: on_card)
    assert free_memory.free_bytes() == free


def test_the_driver_is_asked_for_the_fullest_card(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '9000\\n[N/A]\\n8000\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert free_memory.free_on_card() == 8000 << 20
    program.write_text("#!/bin/sh\nexit 9\n")
    assert free_memory.free_on_card() is None


@pytest.mark.parametrize("text, size", [("12GiB", 12 * GIB), ("0.8 GiB", round(0.8 * GIB)), ("800MB", 800_000_000)])
def test_sizes_have_units(text, size):
    assert free_memory.parse_size(text, "--budget") == size


@pytest.mark.parametrize("text", ["0", "-3", "12 apples", "12", "", "0GiB", "nan GiB", "1e3GiB"])
def test_what_is_no_size_is_refused_by_its_name(text):
    with pytest.raises(UserError, match=r"--budget.*such as 12GiB"):
        free_memory.parse_size(text, "--budget")
