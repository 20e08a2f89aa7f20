"""Rolls over cards: the K axis is cut over a mesh of one axis, and each card holds the whole frozen base.

No roll needs anything of another one, so the cards exchange nothing while they train: a program of K rolls is, on each
card, the program of its own few (`jax.shard_map`: there is nothing for XLA to infer, and so no gather that it could
come to insert). With one card there is no mesh (None), and every program is what it is without this file.

The cards may be those of several hosts, as many on each, host after host. Then an array over them has only a part on
this host: `placed`, `joined` and `whole` make such arrays; `fetched` and `from_one` bring them to all hosts at once.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

ROLLS = "rolls"  # the mesh's one axis
SPLIT, WHOLE = PartitionSpec(ROLLS), PartitionSpec()  # a leading axis R over the cards | the same on every card


def cards_here() -> list[Any]:
    """This host's devices of the first one's kind: a step waits for the slowest, which a display's card would be."""
    devices = jax.local_devices()
    return [one for one in devices if one.device_kind == devices[0].device_kind]


def all_cards() -> list[Any]:
    """Every host's cards of that kind, host after host."""
    kind = cards_here()[0].device_kind
    alike = (one for one in jax.devices() if one.device_kind == kind)
    return sorted(alike, key=lambda one: (one.process_index, one.id))


def cards_for(rolls: int, cards: int) -> int:
    """How many of the cards so many rolls are laid on: the fewest with which no card has more than its share.

    The time of a step is that of the fullest card, ceil(rolls / cards) rolls. Nine rolls on eight cards take two
    rolls' time, which five cards reach as well. What is missing on the last card are places that stay empty.
    """
    return -(-rolls // -(-rolls // cards))


def places_for(rolls: int, cards: int) -> int:
    """Places on the K axis for so many rolls: as many on each card."""
    return -(-rolls // cards) * cards


def mesh_of(rolls: int | None) -> Mesh | None:
    """The cards that so many rolls are laid on, as many on each host; None for one card. Without a number of rolls, all
    that there are."""
    cards, hosts = all_cards(), jax.process_count()
    each = len(cards) // hosts
    if rolls is not None:
        each = -(-cards_for(rolls, len(cards)) // hosts)
    of_host = lambda host: [one for one in cards if one.process_index == host][:each]
    used = [one for host in range(hosts) for one in of_host(host)]
    return Mesh(np.array(used), (ROLLS,)) if len(used) > 1 else None


def size_of(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.size


def cards_of(leaf: Any) -> int:
    """How many cards a leaf of rolls lies on."""
    return len(leaf.sharding.device_set)


def told(rolls: int, mesh: Mesh | None) -> str:
    """What is used, in words; empty where there is one card only."""
    there, cards = len(all_cards()), size_of(mesh)
    if there == 1:
        return ""
    places = places_for(rolls, cards)
    empty = f", {places - rolls} of these places empty" if places > rolls else ""
    hosts = f" on {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    each = f"{places // cards} {'roll' if places == cards else 'rolls'} on each"
    return f"cards: {cards} of {there}{hosts}, {each}{empty}"


def whole_on_each(tree: Any, mesh: Mesh) -> None:
    """Puts the arrays of nested dicts and lists on every card, each in the place of the one that was there.

    One after the other: the first card, which has them all, never holds two copies of more than one.
    """
    for key, leaf in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        if isinstance(leaf, dict | list):
            whole_on_each(leaf, mesh)
        else:
            tree[key] = whole(leaf, mesh)  # a packed matrix is a tree of its own, and goes as one


def whole(tree: Any, mesh: Mesh) -> Any:
    """The arrays on every card. Each host has them, and brings them to its own."""
    places = NamedSharding(mesh, WHOLE)
    if places.is_fully_addressable:
        return jax.device_put(tree, places)
    copies = lambda leaf: [jax.device_put(leaf, card) for card in mesh.local_devices]
    return jax.tree.map(lambda leaf: jax.make_array_from_single_device_arrays(leaf.shape, places, copies(leaf)), tree)


def own_cards(mesh: Mesh | None) -> range | None:
    """Which of the mesh's cards are this host's; None where all are."""
    if mesh is None or jax.process_count() == 1:
        return None
    each = mesh.size // jax.process_count()
    return range(jax.process_index() * each, (jax.process_index() + 1) * each)


def placed(array: np.ndarray, places: Sharding) -> Any:
    """An array that every host has, laid out over the cards."""
    if places.is_fully_addressable:
        return jax.device_put(array, places)
    return jax.make_array_from_callback(array.shape, places, lambda index: array[index])


def joined(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays over all cards, split, of which each host made the part of its own cards (see `own_cards`)."""
    if own_cards(mesh) is None:
        return tree
    assert mesh is not None
    places = NamedSharding(mesh, SPLIT)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(places, leaf), tree)


def fetched(leaf: Any) -> np.ndarray:
    """The whole array in the memory of every host. All of them ask for it together."""
    if getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def from_one(tree: Any, has_it: bool) -> Any:
    """The arrays of the one host that has them, on all; the others give some of the same shapes. To the bit: as whole
    numbers, since their sum with the others' zeros would make 0.0 of -0.0."""
    if jax.process_count() == 1:
        return tree
    bits = jax.tree.map(lambda leaf: leaf.view(f"u{leaf.itemsize}"), tree)
    found = multihost_utils.broadcast_one_to_all(bits, is_source=has_it)
    return jax.tree.map(lambda own, like: np.asarray(own).view(like.dtype), found, tree)


def by_rolls(program: Callable[..., Any], mesh: Mesh | None, specs: tuple[PartitionSpec, ...], **options: Any) -> Any:
    """The jitted program, each card working on what lies there. `specs` say of each argument whether it is SPLIT by
    rolls or WHOLE on every card; results are split. What comes from the host goes to the cards that need it alone."""
    if mesh is None:
        return jax.jit(program, **options)
    # The check of what differs from card to card wants marks at every loop's beginning; nothing here is ever reduced.
    cut = jax.shard_map(program, mesh=mesh, in_specs=specs, out_specs=SPLIT, check_vma=False)
    return jax.jit(cut, in_shardings=tuple(NamedSharding(mesh, spec) for spec in specs), **options)
