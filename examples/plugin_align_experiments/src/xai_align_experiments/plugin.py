"""The training recipes that this package offers; the entry point in pyproject.toml names this module."""

from xai_align import TrainingRecipeSpec, hookimpl

#: The version of the plugin contract that this module was written for.
XAI_ALIGN_CONTRACT = 1


@hookimpl
def xai_align_training_recipes() -> list[TrainingRecipeSpec]:
    # imported here, so that a command that trains nothing does not wait for the trainer's modules
    from xai_align_experiments.recipes import aim, consistency, egat

    return [
        TrainingRecipeSpec(
            name="egat",
            build=egat,
            summary="experimental: adversarial training, with CAMs that an attack does not change",
        ),
        TrainingRecipeSpec(
            name="aim",
            build=aim,
            summary="experimental: align with binary masks whose area is annealed",
        ),
        TrainingRecipeSpec(
            name="consistency",
            build=consistency,
            summary="experimental: examples weighted by how much an attack on the background changes their CAM",
        ),
    ]
