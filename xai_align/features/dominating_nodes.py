"""Nodes of an autograd graph through which every path from the output to the inputs passes."""

from __future__ import annotations

from typing import Any


def dominating_nodes(root: Any) -> set[Any]:
    """Return the nodes that lie on every path from ``root`` to the leaves of its graph.

    A node ``n`` does if ``paths(root, n) * paths(n, leaves) == paths(root, leaves)``.

    Args:
        root: the ``grad_fn`` of the output.

    Example::

        x = torch.ones(1, requires_grad=True)
        inner = x * 2
        logits = inner + inner.relu()
        inner.grad_fn in dominating_nodes(logits.grad_fn)  # True
    """
    order = topological(root)
    to_leaves: dict[Any, int] = {}
    for node in reversed(order):
        later = following(node)
        to_leaves[node] = sum(to_leaves[one] for one in later) if later else 1
    from_root = dict.fromkeys(order, 0)
    from_root[root] = 1
    for node in order:
        for one in following(node):
            from_root[one] += from_root[node]
    return {node for node in order if from_root[node] * to_leaves[node] == to_leaves[root]}


def following(node: Any) -> list[Any]:
    """Return the nodes to which a node passes gradients on."""
    return [one for one, _ in node.next_functions if one is not None]


def topological(root: Any) -> list[Any]:
    """Return the nodes of the graph, each before those that it leads to."""
    ended: list[Any] = []
    seen = {root}
    stack = [(root, iter(following(root)))]
    while stack:
        node, rest = stack[-1]
        for one in rest:
            if one not in seen:
                seen.add(one)
                stack.append((one, iter(following(one))))
                break
        else:
            ended.append(node)
            stack.pop()
    return ended[::-1]
