"""Table of the treatment by a readout of every operation that PyTorch lets a mode override.

    python -m benchmarks.readout.operation_table

Functions, methods, in-place forms, operators and properties of ``torch.overrides.get_overridable_functions()``.
``tests/test_operation_table.py`` checks on PyTorch's own sample inputs that no constant has a derivative, that every
linear operation has its derivative as its coefficient, and that every operation with a rule keeps its value and its
sum.

Takes seconds.
"""

from __future__ import annotations

import warnings
from collections import defaultdict

import torch
from torch.overrides import get_overridable_functions

from xai_align.pinet.gates.operation_table import classify
from xai_align.pinet.gates.rule_registry import operation_name

KINDS = {
    "linear": "run as they are",
    "ruled": "rewritten",
    "constant": "without derivative",
    "reading": "cut off, and counted",
    "refused": "an error that names the operation",
}


def main() -> None:
    warnings.filterwarnings("ignore")
    functions = dict.fromkeys(function for some in get_overridable_functions().values() for function in some)
    found: dict[str, set[str]] = defaultdict(set)
    spellings: dict[str, int] = defaultdict(int)
    for function in functions:
        kind = classify(function)
        spellings[kind] += 1
        found[kind].add(operation_name(function))
    print(f"torch {torch.__version__}, {len(functions)} functions\n")
    print("| kind | functions | operations | |\n|---|---|---|---|")
    for kind, meaning in KINDS.items():
        print(f"| {kind} | {spellings[kind]} | {len(found[kind])} | {meaning} |")
    print(f"\nRefused: {', '.join(sorted(found['refused']))}.")


if __name__ == "__main__":
    main()
