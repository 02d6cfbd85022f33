"""Solver: a function that explains a micro-batch of images, with the options it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

import torch

from xai_align._tools.did_you_mean import did_you_mean
from xai_align._tools.drawn import integer_below

#: Arguments of a solver that are not options.
_GIVEN = frozenset(
    ("model", "inputs", "questions", "additional_forward_args", "progress", "warn", "changed", "intercept")
)


@dataclass(frozen=True)
class Solver:
    """Solver with its options.

    Attributes:
        name: name of the function, for messages.
        run: ``run(model, inputs, questions, *, additional_forward_args, **options)``.
        steps: returns the number of steps of a run with these options, all of them given, for its progress bar.
        defaults: the options with their defaults: keywords, and the fields of the dataclass of options.
        record: the dataclass of further options; None: there is none.
    """

    name: str
    run: Callable[..., Any]
    steps: Callable[[Mapping[str, Any]], int]
    defaults: Mapping[str, Any]
    record: Any

    @classmethod
    def of(
        cls,
        solve: Callable[..., Any],
        steps: Callable[[Mapping[str, Any]], int] = lambda options: 1,
        *,
        run: Callable[..., Any] | None = None,
        **further: Any,
    ) -> Solver:
        """Read the options of a function from its signature.

        Args:
            solve: the function.
            steps: returns the number of its steps, see the attribute.
            run: a function to run instead, which takes further options.
            **further: these options, with their defaults.
        """
        hint = get_type_hints(solve).get("options")
        record: Any = next((one for one in get_args(hint) if one is not type(None)), None)
        defaults: dict[str, Any] = {}
        for name, parameter in inspect.signature(solve).parameters.items():
            if name == "options":
                defaults |= {field.name: field.default for field in fields(record)}
            elif name not in _GIVEN:
                defaults[name] = parameter.default
        return cls(solve.__name__, run or solve, steps, defaults | further, record)

    def single_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options as single values, those of a record ``options=`` among them.

        Raises:
            TypeError: the solver has no such option, or the record is another solver's.
        """
        single = {name: value for name, value in options.items() if name != "options"}
        record = options.get("options")
        if record is not None:
            if self.record is None or not isinstance(record, self.record):
                wanted = "no record" if self.record is None else f"{self.record.__name__}(...)"
                raise TypeError(f"options of {self.name} are {type(record).__name__}; give {wanted}")
            single = {field.name: getattr(record, field.name) for field in fields(record)} | single
        for name in single:
            if name not in self.defaults:
                near = did_you_mean(name, self.defaults)
                raise TypeError(f"{self.name} has no option '{name}'{near} It has {', '.join(self.defaults)}")
        return single


def seeded(options: Mapping[str, Any], generator: torch.Generator | None) -> dict[str, Any]:
    """Return the options with one seed for all micro-batches: the given one, or one drawn from ``generator``, or 0.

    Raises:
        TypeError: the generator is not a ``torch.Generator``, or there is a seed as well.
    """
    if generator is None:
        return {"seed": 0, **options}
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}; or give seed=...")
    if "seed" in options:
        raise TypeError("there is a generator and a seed; give one of them")
    return {**options, "seed": integer_below(2**31, generator)}
