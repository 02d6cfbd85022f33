"""Training recipes by name, from every plugin."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from typing import Any

from xai_align.align.recipe_record import Recipe
from xai_align.align.terms.classifier_terms import Classification
from xai_align.plugins import origin, training_recipe

__all__ = ["recipe", "recipe_options"]


def recipe(name: str, **options: Any) -> Recipe:
    """Build the training recipe called ``name``; its terms are shared with no other recipe.

    Args:
        name: of a registered recipe; ``xai-align methods`` lists them.
        **options: of that recipe; :func:`recipe_options` names them.

    Raises:
        ValueError: no plugin offers the recipe, or an option is out of range.
        TypeError: the recipe has no such option (the message lists those it has), needs one that is missing, or its
            plugin builds something other than a :class:`Recipe`.

    Example::

        >>> from xai_align.align import recipe
        >>> [term.name for term in recipe("align", mixup=0.0).terms]
        ['classification', 'alignment']
    """
    spec = training_recipe(name)
    known = recipe_options(name)
    if unknown := [option for option in options if option not in known]:
        listed = f"it takes {', '.join(known)}" if known else "it takes none"
        raise TypeError(f"the training recipe '{name}' has no option '{unknown[0]}'; {listed}")
    if missing := [option for option in _required(spec.build) if option not in options]:
        raise TypeError(
            f"the training recipe '{name}' needs the option '{missing[0]}'; give recipe('{name}', {missing[0]}=...)"
        )
    built = spec.build(**options)
    if not isinstance(built, Recipe):
        owner = origin(name, kind="training_recipe")
        raise TypeError(
            f"the training recipe '{name}' of plugin '{owner.name}' ({owner.distribution} {owner.version}) is built as "
            f"a {type(built).__name__}; `build` must return a xai_align.align.Recipe"
        )
    return built if built.name == name else replace(built, name=name)


def recipe_options(name: str) -> tuple[str, ...]:
    """Return the names of the options that a training recipe takes.

    Raises:
        ValueError: no plugin offers the recipe.

    Example::

        >>> from xai_align.align.recipe_by_name import recipe_options
        >>> recipe_options("dre")
        ('mixup', 'mixup_share', 'label_smoothing', 'class_weights', 'criterion')
    """
    parameters = _parameters(training_recipe(name).build)
    named = tuple(parameter.name for parameter in parameters if parameter.kind in _BY_NAME)
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return named
    passed_on = (option.name for option in fields(Classification) if option.name != "weight")
    return (*named, *(option for option in passed_on if option not in named))


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _parameters(build: Any) -> list[inspect.Parameter]:
    """Return the parameters of ``build``; none if they cannot be inspected."""
    try:
        return list(inspect.signature(build).parameters.values())
    except (TypeError, ValueError):  # some functions and classes written in C
        return []


def _required(build: Any) -> list[str]:
    return [
        parameter.name
        for parameter in _parameters(build)
        if parameter.kind in _BY_NAME and parameter.default is inspect.Parameter.empty
    ]
