"""The device: what a person chose of its memory is left alone."""

from rolltune.device import share_memory


def test_how_memory_is_taken_is_the_person_s_choice():
    chosen = {"XLA_PYTHON_CLIENT_ALLOCATOR": "bfc", "XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    free: dict[str, str] = {}
    kept = dict(chosen)
    share_memory(chosen)
    share_memory(free)
    assert chosen == kept
    assert free == {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_ALLOCATOR": "cuda_async"}
