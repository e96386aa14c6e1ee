"""The order of a round's candidates: groups interleaved by share, any place of it known without the ones before.

A binary tree holds the groups at its leaves; of the first ``p`` candidates below a node, its left child gets ``p`` times
its share, rounded. The arithmetic is exact, so that for every ``p``

* the counts of the groups sum to ``p``, never fall, and end exactly at the totals;
* no count is 1.68 or more away from its proportional part (half the sum of reciprocal Fibonacci numbers: the tree is
  Huffman's, whose weights grow at least that fast towards the root and damp every rounding above), and for up to eight
  groups of equal totals none is 1 away.

Nothing depends on the order in which a mapping lists its groups.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

Candidate = tuple[str, int]
"""(group, k)."""


@dataclass(frozen=True, slots=True)
class _Leaf:
    total: int
    group: str


@dataclass(frozen=True, slots=True)
class _Fork:
    total: int
    left: _Leaf | _Fork
    right: _Leaf | _Fork

    def left_of(self, position: int) -> int:
        """How many of the first ``position`` candidates here are the left child's."""
        return (2 * position * self.left.total + self.total) // (2 * self.total)


def counts_at(position: int, totals: Mapping[str, int]) -> dict[str, int]:
    """How many of each group are among the first ``position`` candidates of a round with these totals."""
    counts = dict.fromkeys(totals, 0)
    waiting = [(_tree(totals), position)]
    while waiting:
        node, first = waiting.pop()
        if isinstance(node, _Leaf):
            counts[node.group] = first
        elif node is not None:
            left = node.left_of(first)
            waiting += [(node.left, left), (node.right, first - left)]
    return counts


def candidates(start: int, stop: int, totals: Mapping[str, int], first_k: Mapping[str, int]) -> list[Candidate]:
    """Candidates at places ``start`` … ``stop - 1`` of a round; within a group k rises by one from ``first_k``."""
    tree = _tree(totals)
    if tree is None or not 0 <= start <= stop <= tree.total:
        raise ValueError(f"a round of {sum(totals.values())} candidates has no places {start} to {stop}")
    return [_candidate(tree, position, first_k) for position in range(start, stop)]


def _candidate(node: _Leaf | _Fork, position: int, first_k: Mapping[str, int]) -> Candidate:
    while isinstance(node, _Fork):
        left = node.left_of(position)
        if node.left_of(position + 1) > left:
            node, position = node.left, left
        else:
            node, position = node.right, position - left
    return node.group, first_k.get(node.group, 0) + position


def _tree(totals: Mapping[str, int]) -> _Leaf | _Fork | None:
    """Huffman's tree over the groups that have candidates; ties go by name."""
    heap: list[tuple[int, int, _Leaf | _Fork]] = [
        (total, place, _Leaf(total, group))
        for place, (total, group) in enumerate(sorted((total, group) for group, total in totals.items() if total))
    ]
    made = len(heap)
    while len(heap) > 1:
        left, right = heapq.heappop(heap)[2], heapq.heappop(heap)[2]
        total = left.total + right.total
        heapq.heappush(heap, (total, made, _Fork(total, left, right)))
        made += 1
    return heap[0][2] if heap else None
