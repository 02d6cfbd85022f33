"""State of a trainer: the two networks with their optimisers, modes and state of the fit, and how these are saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.files.fields import either, nothing
from xai_align._tools.files.size_limit import no_larger_than
from xai_align._tools.model_state import parameters_of
from xai_align.align.masker import Masker
from xai_align.align.masker_file import OPTIONS as MASKER_OPTIONS
from xai_align.align.recipe_record import Recipe
from xai_align.align.training.batch_validation import BatchValidator
from xai_align.align.training.collapse_responses import CollapseResponse, response_to
from xai_align.align.training.fit_state import AlignFitState, masker_options
from xai_align.align.training.micro_batches import on_device
from xai_align.align.training.phases import first_position
from xai_align.align.training.recipe_description import recipe_description
from xai_align.align.training.sanity_checks import (
    cam_space_and_classes,
    check_masker,
    check_recipe,
    fresh_masker,
    network_inside,
)
from xai_align.align.training.settings import AlignSettings, configuration, plan_of
from xai_align.align.training.training_modes import TrainingModes
from xai_align.align.training.updates import Updater
from xai_align.features.resolve_layer import Layer
from xai_align.features.routes import layer_name
from xai_align.hookspecs import FeatureSpace
from xai_align.training.checkpoints import (
    Checkpoints,
    DamagedCheckpoint,
    Snapshot,
    differences,
    read_checkpoint,
    same,
    write_checkpoint,
)
from xai_align.training.precision import gradient_scaler, rounding_notes
from xai_align.training.preserved_state import trained_parameters


class TrainerState:
    """State of the networks that outlives a call of ``fit``.

    Args:
        classifier: the given classifier.
        masker: the given masker, or None.
        target_layer: layer of the CAM, or None.
        recipe: the training recipe.
        settings: the options.
    """

    def __init__(
        self,
        classifier: nn.Module,
        masker: nn.Module | None,
        target_layer: Layer,
        recipe: Recipe,
        settings: AlignSettings,
    ) -> None:
        self.classifier = classifier
        self.recipe, self.settings, self.plan = recipe, settings, plan_of(settings, recipe)
        #: What else two runs must share for one to resume the other, in JSON types: what a caller knows of the data.
        self.fitted_to: dict[str, Any] = {}
        self.network = network_inside(classifier)
        # a module is stored by its name, which is also valid for copies and checkpoints
        if isinstance(target_layer, nn.Module):
            target_layer = layer_name(self.network, target_layer)
        self.target_layer: str | FeatureSpace | None = target_layer
        trained = trained_parameters(self.network)  # raises if there are none
        if masker is not None and not isinstance(masker, nn.Module):
            raise TypeError(f"the masker is a {type(masker).__name__}; give a torch.nn.Module, e.g. Masker()")
        self.masker = masker if recipe.trains_masker else None
        self.made_masker = masker is None
        self.own_notes: list[str] = []
        if self.network is not classifier:
            self.own_notes.append(
                f"the network inside the {type(classifier).__name__} was trained; it shares its weights, and "
                "the wrapper would hide where CAMs are taken"
            )
        self.own_notes += rounding_notes(trained)
        if masker is not None and not recipe.trains_masker:
            self.own_notes.append(f"the recipe '{recipe.name}' trains no masker; the one that was given is not used")
        self.response: CollapseResponse = response_to(settings.on_collapse)
        self.updaters: dict[str, Updater] = {}
        self.modes: dict[str, TrainingModes] = {}
        self.fit_state: AlignFitState | None = None
        self.space: FeatureSpace | None = None
        self.classes: int | None = None

    @property
    def device(self) -> torch.device:
        """Device of the classifier."""
        return parameters_of(self.network)[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the classifier's parameters, and so of its images."""
        return next((p.dtype for p in parameters_of(self.network) if p.is_floating_point()), torch.float32)

    def check_first_batch(self, raw: Any, name: str) -> None:
        """Inspect the first batch: find the CAM's layer and the number of classes, make the masker, check that all fit.

        Raises:
            TypeError, ValueError: something is incompatible; the message says what to do.
        """
        if self.space is not None and self.classes is not None:
            return
        batch = on_device(self.validator(name)(raw), self.device)
        check_recipe(self.recipe, batch)
        space, classes = cam_space_and_classes(self.network, batch, self.target_layer, self.settings, name)
        if self.recipe.trains_masker:
            if self.masker is None:
                self.masker = fresh_masker(batch.images, self.settings.seed)
            elif self.fit_state is None:
                self.masker.to(self.device)
            check_masker(self.masker, self.network, batch)
        self.space, self.classes = space, classes
        self.validator(name)(raw)  # check that labels are in range
        self.assemble()

    def validator(self, name: str) -> BatchValidator:
        """Return the batch validation of a loader, by its name in messages."""
        return BatchValidator(name=name, read_batch=self.settings.read_batch, classes=self.classes, dtype=self.dtype)

    def assemble(self) -> AlignFitState:
        """Make optimisers and state, once both networks exist."""
        if self.fit_state is not None:
            return self.fit_state
        networks = {"classifier": self.network} | ({} if self.masker is None else {"masker": self.masker})
        optimizers = {
            "classifier": self.settings.optimizer_of_classifier,
            "masker": self.settings.optimizer_of_masker,
        }
        for name, network in networks.items():
            parameters = list(trained_parameters(network).values())
            self.updaters[name] = Updater(
                parameters,
                optimizers[name](parameters),
                gradient_clip=self.settings.gradient_clip,
                scaler=gradient_scaler(self.device, self.settings.mixed_precision),
                name=name,
            )
            frozen = self.settings.freeze_batch_norm and name == "classifier"
            self.modes[name] = TrainingModes(network, freeze_batch_norm=frozen)
        terms = (*self.recipe.terms, *self.recipe.masker_terms)
        self.fit_state = AlignFitState(networks, self.updaters, terms, self.response, first_position(self.plan))
        return self.fit_state

    def configuration(self, **of_the_fit: Any) -> dict[str, Any]:
        """Return the configuration that identifies a run, in JSON types."""
        trained = {
            f"{name}.{key}": p
            for name, network in (("classifier", self.network), ("masker", self.masker))
            if network is not None
            for key, p in trained_parameters(network).items()
        }
        return configuration(
            self.settings,
            plan=asdict(self.plan),
            recipe=recipe_description(self.recipe),
            optimizers={name: updater.optimizer for name, updater in self.updaters.items()},
            trained=trained,
            target_layer=self.target_layer if isinstance(self.target_layer, str) else None,
            **of_the_fit,
        )

    def snapshot(self) -> Snapshot:
        """Return the state that training resumes from.

        Raises:
            ValueError: nothing has been trained yet.
        """
        if self.fit_state is None:
            raise ValueError("nothing was trained yet, so there is nothing to save; call fit, or make a step")
        found = self.fit_state.snapshot()
        return Snapshot(found.tensors, {**found.numbers, "config": self.configuration()})

    def save(self, path: Path) -> Path:
        """Write a checkpoint into a file or folder."""
        snapshot = self.snapshot()
        if path.suffix == ".safetensors":
            path.parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(path, snapshot)
            return path
        return Checkpoints(path, snapshot.numbers["config"]).write(snapshot.numbers["epoch"], snapshot)

    def resume(self, path: Path) -> None:
        """Load a checkpoint, or the newest complete one in a folder."""
        if os.path.isdir(path):
            inside = path / "checkpoints"
            found = sorted(Checkpoints(inside if inside.is_dir() else path, {}).paths(), reverse=True)
        else:
            found = [path] if os.path.isfile(path) else []
        if not found:
            raise FileNotFoundError(f"'{path}' holds no checkpoint to resume from; give one, or the folder of a fit")
        problems = []
        for file in found:
            try:
                snapshot = read_checkpoint(file)
            except DamagedCheckpoint as error:
                problems.append(str(error))
                continue
            self.load(snapshot.tensors, snapshot.numbers, f"'{file}'")
            self.own_notes += [f"{problem}; the older '{file}' was used" for problem in problems]
            return
        raise ValueError(f"no checkpoint can be used: {'; '.join(problems)}; give another, or start anew")

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], name: str) -> None:
        """Restore a snapshot; the masker is built if there is none yet.

        Raises:
            ValueError: it is invalid, or from another trainer; nothing was changed.
        """
        before = self.masker, self.fit_state, dict(self.updaters), dict(self.modes)
        options = numbers.get("masker_options")
        if complaint := either(nothing, MASKER_OPTIONS)(options, "masker_options"):
            raise ValueError(f"{name} is invalid: {complaint}; give another checkpoint")
        try:
            if self.recipe.trains_masker and self.masker is None:
                self.masker = self._saved_masker(tensors, options, name)
            if options != masker_options(self.masker):
                raise ValueError(
                    f"{name} is of a trainer with another masker: its options differ; give this trainer that masker"
                )
            state = self.assemble()
            config = numbers.get("config")
            if not isinstance(config, dict):
                raise ValueError(f"{name} is invalid: config is not an object; give another checkpoint")
            own_config = Checkpoints(Path(), self.configuration()).config
            saved = {key: value for key, value in config.items() if key in own_config}
            if not same(saved, own_config):
                raise ValueError(f"{name} is of a trainer with another configuration: {differences(saved, own_config)}")
            state.restore(Snapshot(tensors, numbers), name)
        except Exception:
            self.masker, self.fit_state, self.updaters, self.modes = before
            raise

    def _saved_masker(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any] | None, name: str) -> Masker:
        if options is None:
            raise ValueError(f"{name} is of a fit with a custom masker; give the trainer one of the same architecture")
        with no_larger_than(tensors, name):
            return Masker(**options).to(self.device, self.dtype)
