"""Splits that are the same on every platform: stratified by answer, groups and copies kept on one side.

Only integers and Python's Mersenne Twister are used, whose numbers for a seed are fixed by the language.
"""

import itertools
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

from rolltune.data.answers import are_classes
from rolltune.data.examples import Example
from rolltune.data.findings import quoted
from rolltune.data.fingerprints import Fingerprint, Key, Pair, alike
from rolltune.errors import UserError

MOST_SHARED = 200  # rows of several pictures: one that more of them hold is no sign of a copy


def keys_of(example: Example) -> list[Key]:
    return list(zip(example.images, example.frames or (None,) * len(example.images), strict=True))


def cluster_rows(
    examples: Sequence[Example], prints: Mapping[Key, Fingerprint] | None = None, groups: bool = True
) -> list[int]:
    """A number a row; rows with the same number belong on one side of a split.

    Linked are rows of one group (a video, an original picture) and, where `prints` are given, rows that
    are copies of each other.
    """
    linked = Links(len(examples))
    first: dict[str, int] = {}
    for place, example in enumerate(examples):
        if groups and example.group is not None:
            linked.link(first.setdefault(example.group, place), place)
    for one, other in copied_rows(examples, prints) if prints is not None else ():
        linked.link(one, other)
    return [linked.root(place) for place in range(len(examples))]


class Links:
    """Which of n things hang together."""

    def __init__(self, n: int):
        self._parent = list(range(n))

    def root(self, place: int) -> int:
        """The smallest thing that hangs together with `place`."""
        parent = self._parent
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    def link(self, one: int, other: int) -> None:
        one, other = sorted((self.root(one), self.root(other)))
        self._parent[other] = one


def copied_rows(
    examples: Sequence[Example], prints: Mapping[Key, Fingerprint], pairs: Sequence[Pair] | None = None
) -> list[tuple[int, int]]:
    """Pairs of rows that are copies: enough of them to hang all copies together, not every pair.

    Rows with pictures are copies where more than half of their pictures are (a picture that many rows
    share, such as a reference to compare with, makes none); rows without, where they ask the same.
    `pairs` are those of `alike(list(prints.values()))`, where they are known already.
    """
    keys = list(prints)
    same = Links(len(keys))
    near: dict[int, list[int]] = {}
    for pair in alike([prints[key] for key in keys]) if pairs is None else pairs:
        if pair.exact:
            same.link(pair.first, pair.second)
        else:  # only the first of equal pictures is compared with others
            near.setdefault(pair.first, []).append(pair.second)
            near.setdefault(pair.second, []).append(pair.first)
    kind = {key: same.root(place) for place, key in enumerate(keys)}
    single: dict[object, list[int]] = {}
    several: dict[object, list[int]] = {}
    for place, example in enumerate(examples):
        kinds = {kind[key] for key in keys_of(example) if key in kind}
        for mark in kinds if example.images else {text_key(example)}:
            (several if len(example.images) > 1 else single).setdefault(mark, []).append(place)
    found = [pair for rows in single.values() for pair in itertools.pairwise(rows)]
    for one, others in near.items():
        found += [(single[one][0], single[other][0]) for other in others if one < other and {one, other} <= set(single)]
    return sorted(found + _copies_of_several(examples, kind, near, several))


def _copies_of_several(
    examples: Sequence[Example],
    kind: Mapping[Key, int],
    near: Mapping[int, list[int]],
    rows_of: Mapping[object, list[int]],
) -> list[tuple[int, int]]:
    found = []
    for place, example in enumerate(examples):
        shared: Counter = Counter()
        for key in keys_of(example) if len(example.images) > 1 else ():
            if key in kind:
                others = {row for mark in (kind[key], *near.get(kind[key], ())) for row in rows_of.get(mark, ())}
                if len(others) <= MOST_SHARED:
                    shared.update(row for row in others if row > place)
        found += [
            (place, row)
            for row, common in shared.items()
            if 2 * common > max(len(example.images), len(examples[row].images))
        ]
    return found


def text_key(example: Example) -> str:
    """What a text row asks, without regard to spacing and letter case."""
    return " ".join(" ".join(turn.text for turn in example.turns[:-1]).split()).casefold()


def parse_amount(text: str, rows: int) -> tuple[int, bool]:
    """(rows, whether exactly so many are asked for) of "10", "20%" or "0.2"."""
    if re.fullmatch(r"\d+", text):
        return int(text), True
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if share or re.fullmatch(r"0?\.\d+", text):
        part = Fraction(share[1]) / 100 if share else Fraction(text)
        if part < 1:
            return int(part * rows + Fraction(1, 2)), False
    raise UserError(f"{text!r} is no number of rows: expected for example 10, 20% or 0.2")


def split_rows(
    answers: Sequence[str],
    clusters: Sequence[int],
    sizes: Mapping[str, int],
    seed: int,
    stratify: bool = True,
    exact: bool = True,
) -> dict[str, list[int]]:
    """The rows of "train" (what is left over) and of each name in `sizes`, in shuffled order.

    Every answer gets its share of each split, as near as whole rows and whole clusters allow. Where
    clusters make a size impossible a UserError names the possible ones next to it, or, with
    `exact=False`, the nearest is taken.
    """
    check_sizes(len(answers), sizes)
    rng = random.Random(seed)
    members: dict[int, list[int]] = {}
    for place, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(place)
    free = list(members.values())
    rng.shuffle(free)
    strata = list(answers) if stratify else [""] * len(answers)
    result = {}
    for name, wanted in sizes.items():
        wanted = wanted if exact else _nearest(free, wanted)
        chosen = _choose(free, strata, wanted, name)
        taken = {id(cluster) for cluster in chosen}
        free = [cluster for cluster in free if id(cluster) not in taken]
        result[name] = [place for cluster in chosen for place in cluster]
    result = {"train": [place for cluster in free for place in cluster], **result}
    for places in result.values():
        places.sort()
        rng.shuffle(places)
    return result


def one_sided(answers: Sequence[str], splits: Mapping[str, Sequence[int]]) -> list[str]:
    """What to say of answers that ended up in train alone, or everywhere but in train; [] for free text.

    `splits` maps names, with a folder before them where there are folds, to rows.
    """
    if not are_classes(answers):
        return []
    told = []
    for folder in dict.fromkeys(name.rpartition("/")[0] for name in splits):
        parts = {name: places for name, places in splits.items() if name.rpartition("/")[0] == folder}
        counts = {
            name.rpartition("/")[2]: Counter(answers[place] for place in places) for name, places in parts.items()
        }
        learnt = counts.pop("train", Counter())
        asked = sum(counts.values(), Counter())
        sides = (
            (asked, learnt, f"not in train, and so cannot be learnt, though {' and '.join(counts)} asks for it"),
            (learnt, asked, "in train alone, so that nothing tells whether it was learnt"),
        )
        for here, there, message in sides:
            if lonely := sorted(here.keys() - there.keys()):
                shown = ", ".join(f"{quoted(answer)} ({here[answer]})" for answer in lonely[:8])
                more = f" and {len(lonely) - 8} other answers" if len(lonely) > 8 else ""
                told.append(f"{folder + ': ' if folder else ''}{shown}{more}: {message}")
    return told


def check_sizes(rows: int, sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name}: {size} rows asked for: a split has at least 1")
    asked = sum(sizes.values())
    if asked >= rows:
        parts = " and ".join(f"{size} for {name}" for name, size in sizes.items())
        raise UserError(f"{parts} of {rows} rows leave none to train on: ask for less than {rows} in all")


def _quotas(clusters: Sequence[Sequence[int]], strata: Sequence[str], wanted: int) -> Counter:
    """How many rows of each answer a split of `wanted` rows has: in proportion, largest remainders rounded up."""
    counts = Counter(strata[place] for cluster in clusters for place in cluster)
    total = sum(counts.values())
    quotas = Counter({answer: wanted * count // total for answer, count in counts.items()})
    left = wanted - sum(quotas.values())
    by_remainder = sorted(counts, key=lambda answer: (-(wanted * counts[answer] % total), answer))
    quotas.update(by_remainder[:left])
    return quotas


def _choose(free: list[list[int]], strata: Sequence[str], wanted: int, name: str) -> list[list[int]]:
    quotas = _quotas(free, strata, wanted)
    chosen: list[list[int]] = []
    need = wanted

    def take(cluster: list[int], counts: Counter) -> None:
        nonlocal need
        chosen.append(cluster)
        quotas.subtract(counts)
        need -= len(cluster)

    waiting = []
    for cluster in free:
        counts = Counter(strata[place] for place in cluster)
        if len(cluster) <= need and all(count <= quotas[answer] for answer, count in counts.items()):
            take(cluster, counts)
        else:
            waiting.append((cluster, counts))
    while need:  # whole clusters do not meet the quotas: those that overstep them least
        fitting = [
            (sum(max(0, count - max(0, quotas[answer])) for answer, count in counts.items()), place)
            for place, (cluster, counts) in enumerate(waiting)
            if len(cluster) <= need
        ]
        if not fitting:
            break
        take(*waiting.pop(min(fitting)[1]))
    return chosen if not need else _exactly(free, wanted, name)


def _reachable(free: Sequence[Sequence[int]], upto: int) -> list[int]:
    """Bit s of the k-th number says whether some of the first k clusters make s rows together."""
    mask = (1 << upto + 1) - 1
    sums = [1]
    for cluster in free:
        sums.append((sums[-1] | sums[-1] << len(cluster)) & mask)
    return sums


def _nearest(free: Sequence[Sequence[int]], wanted: int) -> int:
    """The size nearest to `wanted` that whole clusters make, leaving at least one cluster over."""
    total = sum(map(len, free))
    possible = _reachable(free, total)[-1]
    sizes = [size for size in range(1, total) if possible >> size & 1]
    if not sizes:
        raise UserError("all rows hang together (one group, or copies of one another): they cannot be split")
    return min(sizes, key=lambda size: (abs(size - wanted), size))


def _exactly(free: Sequence[list[int]], wanted: int, name: str) -> list[list[int]]:
    """Clusters of exactly `wanted` rows, answers not regarded; a UserError where there are none such."""
    total = sum(map(len, free))
    sums = _reachable(free, total)
    if not sums[-1] >> wanted & 1:
        below = max((size for size in range(1, wanted) if sums[-1] >> size & 1), default=None)
        above = min((size for size in range(wanted + 1, total) if sums[-1] >> size & 1), default=None)
        near = " or ".join(str(size) for size in (below, above) if size is not None) or "none at all"
        raise UserError(
            f"{name}: exactly {wanted} rows cannot be had without tearing apart rows that belong together (groups, "
            f"copies of one picture); possible next to it: {near}. A share such as 20% takes the nearest by itself"
        )
    chosen, need = [], wanted
    for place in range(len(free), 0, -1):
        if not sums[place - 1] >> need & 1:
            chosen.append(free[place - 1])
            need -= len(free[place - 1])
    return chosen


def fold_rows(answers: Sequence[str], clusters: Sequence[int], folds: int, seed: int) -> list[int]:
    """The fold (0..folds-1) of each row: clusters whole, answers spread evenly, sizes nearly equal."""
    members: dict[int, list[int]] = {}
    for place, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(place)
    if not 2 <= folds <= len(members):
        raise UserError(f"{folds} folds: expected 2 to {len(members)}, the number of rows (or groups of rows)")
    rng = random.Random(seed)
    ordered = list(members.values())
    rng.shuffle(ordered)
    ordered.sort(key=len, reverse=True)  # stable: the shuffled order decides among equals
    fold_of = [0] * len(answers)
    per_answer: list[Counter] = [Counter() for _ in range(folds)]
    sizes = [0] * folds
    for cluster in ordered:
        counts = Counter(answers[place] for place in cluster)
        fold = min(
            range(folds),
            key=lambda fold: (
                sum(count * (2 * per_answer[fold][answer] + count) for answer, count in counts.items()),
                sizes[fold],
                fold,
            ),
        )
        per_answer[fold].update(counts)
        sizes[fold] += len(cluster)
        for place in cluster:
            fold_of[place] = fold
    return fold_of


def fold_by_id(ids: Sequence[str], sources: Sequence[str], folds: int) -> list[int]:
    """The fold of each row is its id modulo `folds`. `sources` say where the rows stand, for messages."""
    if folds < 2:
        raise UserError(f"{folds} folds: expected 2 or more")
    for id, source in zip(ids, sources, strict=True):
        if not re.fullmatch(r"-?\d+", id):
            raise UserError(
                f'{source}: the id {id!r} is not a whole number, so there is no id % {folds}: give every row an "id" '
                'such as 17, or leave the folds to rolltune (fold_by "auto")'
            )
    fold_of = [int(id) % folds for id in ids]
    if empty := sorted(set(range(folds)) - set(fold_of)):
        raise UserError(f"no row has an id with id % {folds} = {empty[0]}: fewer folds, or other ids")
    return fold_of


def modulo_rows(examples: Sequence[Example], divisor: int, remainder: int = 0) -> dict[str, list[int]]:
    """ "valid" where the row's number modulo `divisor` is `remainder`, in the order given.

    The number is the id where all ids are whole numbers, else the row's place, counted from 0.
    """
    if divisor < 2 or not 0 <= remainder < divisor:
        raise UserError(f"id % {divisor} = {remainder}: expected a divisor from 2 up and a remainder below it")
    whole = all(re.fullmatch(r"\d+", example.id) for example in examples)
    numbers = [int(example.id) if whole else place for place, example in enumerate(examples)]
    parts: dict[str, list[int]] = {"train": [], "valid": []}
    for place, number in enumerate(numbers):
        parts["valid" if number % divisor == remainder else "train"].append(place)
    for name, places in parts.items():
        if not places:
            raise UserError(f"id % {divisor} = {remainder} leaves no row for {name}")
    return parts
