"""The masker that ``xai-align fit-align`` trains: on frozen stages of the backbone where these can be had."""

from __future__ import annotations

from torch import nn

from xai_align._tools.checks import check_choice
from xai_align._tools.random_state import fixed_random_state
from xai_align.align.recipe_record import Recipe
from xai_align.align.stage_masker import StageMasker
from xai_align.hookspecs import LoadedModel
from xai_align.training.epoch_plan import derived_seed

#: On frozen stages of the backbone as it was loaded, or one that takes the image and is trained from scratch.
KINDS = ("stages", "plain")


def check_kind(kind: str | None) -> None:
    """Raise unless it names a masker, or is None.

    Raises:
        ValueError: it is another word.
    """
    if kind is not None:
        check_choice("masker", kind, KINDS)


def masker_for(
    kind: str | None, recipe: Recipe, model: nn.Module, loaded: LoadedModel, *, shape: tuple[int, int, int], seed: int
) -> tuple[nn.Module | None, list[str]]:
    """Return a masker, or None for one from scratch, which the trainer makes; and remarks to show before training.

    Args:
        kind: the user's choice; None: on stages where these are trained and can be found.
        recipe: one that trains no masker gets none.
        model: the classifier as it is before training.
        loaded: the loaded backbone.
        shape: channels, rows and columns of the images.
        seed: of the masker's initial weights.

    Raises:
        ValueError: a masker on stages is asked for, and the network has none.
    """
    if not recipe.trains_masker or kind == "plain":
        return None, []
    if kind is None and loaded.random_weights:
        why = "the backbone's stages are untrained, so a masker on them would have no useful features"
        return None, [f"the masker is trained from scratch: {why}"]
    try:
        with fixed_random_state(derived_seed(seed, "masker")):
            return StageMasker(model, shape[0], size=shape[1:]), []
    except ValueError as error:
        if kind == "stages":
            raise
        return None, [f"the masker is trained from scratch and not on the backbone's stages: {error}"]
