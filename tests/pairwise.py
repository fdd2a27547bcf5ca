"""All-pairs test cases: a small set in which every two values of two factors meet at least once."""

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any


def pairwise(factors: Mapping[str, Sequence[Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Return cases that cover every pair of values of every two factors, built greedily; the same on every machine."""
    names, choose = list(factors), random.Random(seed)
    uncovered = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    }
    cases = []
    while uncovered:
        (a, i), (b, j) = min(uncovered, key=lambda pair: (names.index(pair[0][0]), pair[0][1], str(pair[1])))
        case = {a: i, b: j}
        for name in sorted((name for name in names if name not in case), key=lambda name: -len(factors[name])):
            values = list(range(len(factors[name])))
            choose.shuffle(values)
            case[name] = max(values, key=lambda value: len(_pairs({**case, name: value}, names) & uncovered))
        uncovered -= _pairs(case, names)
        cases.append({name: factors[name][case[name]] for name in names})
    return cases


def _pairs(case: Mapping[str, int], names: Sequence[str]) -> set[tuple[tuple[str, int], tuple[str, int]]]:
    known = [(name, case[name]) for name in names if name in case]
    return set(itertools.combinations(known, 2))
