"""Description of a recipe in JSON types, to check that a checkpoint resumes with the same one."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from xai_align.align.recipe_record import Recipe
from xai_align.training.digest import digest_of


def recipe_description(recipe: Recipe) -> dict[str, Any]:
    """Return name, terms with their options, mask source and baseline."""
    return {
        "name": recipe.name,
        "terms": {term.name: described(term) for term in recipe.terms},
        "mask_source": described(recipe.mask_source),
        "masker_terms": {term.name: described(term) for term in recipe.masker_terms},
        "baseline": described(recipe.baseline),
        "masks_from": described(recipe.masks_from),
    }


def described(value: Any) -> Any:
    """Describe an option: itself if it is a JSON type, the content of a tensor, else its class and options."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)} {digest_of({'': value})[:16]}"
    if isinstance(value, tuple | list):
        return [described(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        options = {field.name: described(getattr(value, field.name)) for field in fields(value) if field.compare}
        return {"kind": type(value).__name__, **options}
    return getattr(value, "__qualname__", type(value).__name__)
