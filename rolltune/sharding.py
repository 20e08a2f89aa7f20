"""Rolls over cards: the K axis is cut over a mesh's first axis, and each card holds the whole frozen base.

No roll needs anything of another one, so the cards exchange nothing while they train: a program of K rolls is, on each
card, the program of its own few (`jax.shard_map`: there is nothing for XLA to infer, and so no gather that it could
come to insert). With one card there is no mesh (None), and every program is what it is without this file.

The cards may be those of several hosts, as many on each, host after host. Then an array over them has only a part on
this host: `placed`, `sent`, `joined` and `whole` make such arrays; `fetched` brings them to all hosts at once.

Where a base is too large for that, a mesh has a second axis: a group of cards shares a base that is cut over them (see
`models.cut`), and the rows of each micro-batch. A group lies within a host, or is of whole hosts.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from rolltune.errors import UserError

ROLLS = "rolls"  # the mesh's first axis, most often its only one
CARDS = "cards"  # its second axis, where there are groups: the cards of one
SPLIT, WHOLE = PartitionSpec(ROLLS), PartitionSpec()  # a leading axis R over the cards | the same on every card
# How a leaf of the base may lie: whole on each card of a group | cut over the group | whole, and there are no groups.
REPLICATE, FSDP = "replicate", "fsdp"
WORDS = (REPLICATE, FSDP, ROLLS)
AT_ONCE = 1 << 26  # bytes of an array that every card holds at a time, on their way to all hosts


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


def groups_of(rolls: int | None, size: int, cards: Sequence[Any] | None = None) -> Mesh:
    """Groups of `size` cards, each with a base of its own, over which so many rolls are laid; without a number of
    rolls, all that there are. `cards`: others than those of all hosts, which may be only described.

    Each host has as many of them as any other, and at least one or a part of one. Raises UserError where there are
    fewer cards, or where they make no groups that divide a host or are of whole ones.
    """
    there = all_cards() if cards is None else list(cards)
    hosts = hosts_of(there)
    here = len(there) // hosts
    if size < 2 or len(there) % size or (here % size and size % here):
        raise UserError(_wrong_size(size, here, hosts))
    groups = len(there) // size
    each = groups if rolls is None else cards_for(rolls, groups)
    # Nobody can call a program of other hosts' cards alone: where a group is of several hosts, all groups take part.
    own = here if size > here else -(-each // hosts) * size
    used = [one for host in range(hosts) for one in there[host * here :][:own]]
    return Mesh(np.array(used).reshape(-1, size), (ROLLS, CARDS))


def _wrong_size(size: int, here: int, hosts: int) -> str:
    if hosts == 1:
        return f"sharding_group: {size} of {here} cards; expected a number of 2 or more that divides them"
    within = [number for number in range(2, here + 1) if here % number == 0]
    over = [number * here for number in range(2, hosts + 1) if hosts % number == 0]
    fitting = ", ".join(map(str, (*within, *over)))
    return (
        f"sharding_group: {size} of {hosts} hosts with {here} {'card' if here == 1 else 'cards'} each; a group divides "
        f"the cards of a host, or is of whole hosts: {fitting}, or 0 for all cards of all hosts"
    )


def hosts_of(cards: Sequence[Any]) -> int:
    """Of how many hosts these cards are, which stand host after host, as many of each."""
    return len({one.process_index for one in cards})


def hosts_in_group(mesh: Mesh | None) -> int:
    """Of how many hosts the cards are that share a base."""
    return 1 if mesh is None or CARDS not in mesh.axis_names else hosts_of(list(mesh.devices[0]))


def size_of(mesh: Mesh | None) -> int:
    """Over how many cards, or groups of cards, the rolls are laid."""
    return 1 if mesh is None else mesh.shape[ROLLS]


def cards_in_group(mesh: Mesh | None) -> int:
    """How many cards share a base, and the rows of a batch."""
    return 1 if mesh is None else mesh.shape.get(CARDS, 1)


def cards_of(leaf: Any) -> int:
    """Over how many cards, or groups of cards, a leaf of rolls is laid."""
    return leaf.sharding.mesh.shape[ROLLS] if isinstance(leaf.sharding, NamedSharding) else 1


def told(rolls: int, mesh: Mesh | None) -> str:
    """What is used, in words; empty where there is one card only."""
    there, cards, group = len(all_cards()), size_of(mesh), cards_in_group(mesh)
    if there == 1:
        return ""
    places = places_for(rolls, cards)
    empty = f", {places - rolls} of these places empty" if places > rolls else ""
    hosts = f" on {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    each = f"{places // cards} {'roll' if places == cards else 'rolls'} on each{empty}"
    if group > 1:
        groups = f"{cards} groups of {group} cards share a base each" if cards > 1 else "they share one base"
        return f"cards: {cards * group} of {there}{hosts}, {groups} and its batches' rows, {each}"
    return f"cards: {cards} of {there}{hosts}, {each}"


def on_all(table: Any, mesh: Mesh | None) -> Any:
    """A table of the host's on every card; without a mesh on the first."""
    return jax.device_put(table) if mesh is None else whole(table, mesh)


def whole_on_each(tree: Any, mesh: Mesh) -> None:
    """Puts the arrays of nested dicts and lists on every card, each in the place of the one that was there.

    One after the other: the first card, which has them all, never holds two copies of more than one.
    """
    for key, leaf in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        if isinstance(leaf, dict | list):
            whole_on_each(leaf, mesh)
        elif _lies_on(leaf, mesh):
            continue
        else:
            tree[key] = whole(leaf, mesh)  # a packed matrix is a tree of its own, and goes as one


def whole(tree: Any, mesh: Mesh) -> Any:
    """The arrays on every card. Each host has them, and brings them to its own, if they are not there already."""
    places = NamedSharding(mesh, WHOLE)
    if places.is_fully_addressable:
        return jax.device_put(tree, places)
    copies = lambda leaf: [jax.device_put(leaf, card) for card in mesh.local_devices]
    made = lambda leaf: jax.make_array_from_single_device_arrays(leaf.shape, places, copies(leaf))
    there = lambda leaf: isinstance(leaf, jax.Array) and _lies_on(leaf, mesh)
    return jax.tree.map(lambda leaf: leaf if there(leaf) else made(leaf), tree)


def own_cards(mesh: Mesh | None) -> range | None:
    """Which of the mesh's cards, group after group, are this host's; None where all are."""
    if mesh is None or jax.process_count() == 1:
        return None
    each = mesh.size // jax.process_count()
    return range(jax.process_index() * each, (jax.process_index() + 1) * each)


def own_rows(mesh: Mesh | None, rows: int) -> range:
    """Which of so many rows, that the cards of a group have between them, are on this host's cards."""
    own, cards = own_cards(mesh), cards_in_group(mesh)
    if own is None or hosts_in_group(mesh) == 1:
        return range(rows)
    first = own.start % cards
    return range(first * rows // cards, (first + len(own)) * rows // cards)


def placed(array: Any, places: Sharding) -> Any:
    """An array that every host has, laid out over the cards: each is sent its own part alone."""
    if places.is_fully_addressable:
        return jax.device_put(array, places)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, places, lambda index: host[index])


def sent(tree: Any, mesh: Mesh | None, spec: PartitionSpec) -> Any:
    """Arrays that every host has, for a program of cards in groups. Those of one host a program takes as they are."""
    if mesh is None or CARDS not in mesh.axis_names or own_cards(mesh) is None:
        return tree
    return jax.tree.map(lambda leaf: placed(leaf, NamedSharding(mesh, spec)), tree)


def joined(tree: Any, mesh: Mesh | None, spec: PartitionSpec = SPLIT) -> Any:
    """Arrays over all cards, of which each host made the part of its own cards (see `own_cards`)."""
    if own_cards(mesh) is None:
        return tree
    assert mesh is not None
    places = NamedSharding(mesh, spec)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(places, leaf), tree)


def anywhere(flags: np.ndarray, mesh: Mesh | None) -> np.ndarray:
    """bool [n]: which of these are so on any of the hosts that share a base, and so call the same programs."""
    if hosts_in_group(mesh) == 1:
        return flags
    return np.asarray(np.any(multihost_utils.process_allgather(flags.astype(np.int32)), 0))


def is_here(leaf: Any) -> bool:
    """Whether this host's cards have all of an array, perhaps as others have, too."""
    if getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated:
        return True
    return sum({str(one.index): one.data.size for one in leaf.addressable_shards}.values()) == leaf.size


def fetched(leaf: Any, roll: int | None = None) -> np.ndarray:
    """The whole array in the memory of every host; with `roll` that of one roll of [R, ...]. All of them ask for it
    together, unless each has all of it. Beside its own part no card holds more of it at a time than AT_ONCE, or one
    layer's."""
    if getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated:
        return np.asarray(leaf) if roll is None else np.array(np.asarray(leaf)[roll])
    found = np.empty(leaf.shape if roll is None else leaf.shape[1:], leaf.dtype)
    if roll is None and is_here(leaf):
        for shard in leaf.addressable_shards:
            found[shard.index] = shard.data
        return found
    # In parts along an axis that is not cut.
    spec = (*leaf.sharding.spec, *[None] * (leaf.ndim - len(leaf.sharding.spec)))
    axis = next((axis for axis in range(1, leaf.ndim) if spec[axis] is None), 0)
    each = max(1, AT_ONCE * leaf.shape[axis] // max(found.nbytes, 1)) if axis else leaf.shape[0]
    places = NamedSharding(leaf.sharding.mesh, WHOLE)
    before = (slice(None),) * (axis - (roll is not None))  # axes of what is fetched
    for start in range(0, leaf.shape[axis], each):
        count = min(each, leaf.shape[axis] - start)
        part = np.asarray(_everywhere(places, axis, count, roll is not None)(leaf, start, roll or 0))
        found[(*before, slice(start, start + count)) if axis else ...] = part
    return found


@functools.cache
def _everywhere(places: NamedSharding, axis: int, count: int, of_one: bool) -> Callable[..., Any]:
    """The jitted part of an array, or of one roll of it, on every card."""

    def part(leaf: Any, start: Any, roll: Any) -> Any:
        some = jax.lax.dynamic_slice_in_dim(leaf, start, count, axis)
        if not of_one:
            return some
        # A sum over rolls of which all others are zero: an index would gather all rolls. To the bit: as whole numbers,
        # since 0.0 would come of -0.0.
        bits = jax.lax.bitcast_convert_type(some, f"uint{8 * some.dtype.itemsize}")
        mine = (jnp.arange(len(bits)) == roll).reshape(-1, *[1] * (bits.ndim - 1))
        return jax.lax.bitcast_convert_type(jnp.sum(jnp.where(mine, bits, 0), 0, dtype=bits.dtype), some.dtype)

    return jax.jit(part, out_shardings=places)


def _lies_on(leaf: Any, mesh: Mesh) -> bool:
    """Whether a leaf was put on these cards before, whole or cut."""
    return all(set(mesh.devices.flat) == one.sharding.device_set for one in jax.tree.leaves(leaf))


def by_rolls(
    program: Callable[..., Any],
    mesh: Mesh | None,
    specs: tuple[PartitionSpec, ...],
    in_groups: Callable[..., tuple[tuple[Any, ...], Any]] | None = None,
    rows: PartitionSpec = WHOLE,
    **options: Any,
) -> Any:
    """The jitted program, each card working on what lies there. `specs` say of each argument whether it is SPLIT by
    rolls or WHOLE on every card; results are split. What comes from the host goes to the cards that need it alone.

    Where the cards are in groups, `in_groups` says it, of the arguments: (trees of specs, those of the results), and
    `rows` of the last argument, which comes from the host.
    """
    if mesh is None:
        return jax.jit(program, **options)
    if CARDS in mesh.axis_names:
        assert in_groups is not None

        def grouped(*args: Any) -> Any:
            into, out = in_groups(*args)
            return jax.shard_map(program, mesh=mesh, in_specs=into, out_specs=out, check_vma=False)(*args)

        return jax.jit(grouped, in_shardings=(*[None] * (len(specs) - 1), NamedSharding(mesh, rows)), **options)
    # The check of what differs from card to card wants marks at every loop's beginning; nothing here is ever reduced.
    cut = jax.shard_map(program, mesh=mesh, in_specs=specs, out_specs=SPLIT, check_vma=False)
    return jax.jit(cut, in_shardings=tuple(NamedSharding(mesh, spec) for spec in specs), **options)
