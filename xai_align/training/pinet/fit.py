"""Fitting a PiNet on a CPU, one GPU or several; a killed run resumes at the end of its last epoch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from xai_align._tools.model_state import parameters_of
from xai_align._tools.options import with_changes
from xai_align._tools.random_state import seed_all
from xai_align._tools.thread_state import restores_thread_state
from xai_align.pinet.network.losses import PiNetLoss
from xai_align.training.checkpoints import Checkpoints
from xai_align.training.epoch_plan import derived_seed, steps_in_epoch
from xai_align.training.network_fit_state import NetworkFitState
from xai_align.training.pinet.batches import BatchSource
from xai_align.training.pinet.dataset_validation import validate_dataset
from xai_align.training.pinet.metric import metric_of
from xai_align.training.pinet.options import FitOptions
from xai_align.training.pinet.program import PiNetProgram
from xai_align.training.pinet.sanity_checks import check_model, teacher_for
from xai_align.training.pinet.settings import FitSettings, configuration
from xai_align.training.precision import gradient_scaler, rounding_notes
from xai_align.training.preserved_state import preserved_state, trained_parameters
from xai_align.training.process_group import ProcessGroup
from xai_align.training.run import run_fit, run_folder
from xai_align.training.training_log import Row


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Result of :func:`fit_pinet`.

    Attributes:
        model: the given model, with the weights selected by ``keep``.
        metric: name of the validation metric: "accuracy", "f1", "mae" or "iou".
        best: the row of the best validation; None without validation data.
        history: all rows: epoch, step, seconds, learning_rate, loss and its terms (means over the steps since the
            last row, unweighted), validation_loss, the metric, and whether it was the best so far.
        epochs, steps: numbers of epochs and steps, including those before a resumption.
        stopped: "epochs": all epochs ran. "stop_at", "patience", "plateau": the reason for stopping earlier.
        seconds: time for training and validation, including the time before a resumption.
        notes: remarks on the run, e.g. about a resumption.
        out: folder with checkpoints, metrics and the model.

    Example::

        train = torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 2)
        loss = PiNetLoss("multiclass")
        fit = fit_pinet(conv_pinet(2, in_channels=3), train, train, loss=loss, epochs=2, batch_size=4)
        fit.metric, fit.best["accuracy"]  # "accuracy" and its best value
    """

    model: nn.Module = field(repr=False)
    metric: str
    best: Row | None
    history: list[Row] = field(repr=False)
    epochs: int
    steps: int
    stopped: str
    seconds: float
    notes: tuple[str, ...] = ()
    out: Path | None = None


@restores_thread_state
def fit_pinet(
    model: nn.Module,
    train: Dataset[Any],
    validation: Dataset[Any] | None = None,
    *,
    loss: PiNetLoss,
    epochs: int = 50,
    batch_size: int = 32,
    learning_rate: float = 5e-3,
    seed: int = 0,
    out: str | Path | None = None,
    show_progress: bool = False,
    options: FitOptions | None = None,
    **changed: Any,
) -> Fit:
    """Train a PiNet, in place.

    Only the model's weights change: train and eval mode, ``requires_grad``, ``.grad``, device and random states are
    as before. If training is interrupted by an exception, the model has the best weights so far. Processes started
    with ``accelerate launch`` or ``torchrun`` share the work.

    Two runs with the same arguments have the same examples in the same order, independent of the global random
    state; on a CPU, with the same number of threads, they are bitwise equal. With ``out``, a repeated call resumes
    from the end of the last complete epoch, as if it had never stopped; an interrupted epoch starts over.

    Args:
        model: a :class:`~xai_align.pinet.PiNet`, or any module with ``explain(x)`` that returns ``logits [N, K]``,
            ``coefficients [N, K or 1, C or 1, h, w]`` and ``coefficient_maps [N, K, h, w]``. Its
            ``trainable_parameters()`` are trained; without this method, the parameters that require grad.
        train: items ``(image, target)`` or ``(image, target, mask)``: a float ``[C, H, W]``, preprocessed; the
            target as in :func:`~xai_align.pinet.network.loss_formulas.prediction_loss`, for one example; a mask
            ``[K or 1, h, w]`` of the size of the model's maps, NaN where unknown.
        validation: the same; None: no validation, and the last weights are kept.
        loss: the loss.
        epochs: maximum number of epochs. A finished run may be continued with more, unless the schedule is "cosine".
        batch_size: examples in a forward pass of one process. A step has at most ``batch_size *
            gradient_accumulation_steps * processes`` examples.
        learning_rate: of AdamW, which without weight decay is Adam; the default is the paper's.
        seed: of shuffling, dropout, and augmentations that draw from torch's, numpy's or Python's generators.
        out: folder for checkpoints, ``metrics.csv``, ``metrics.jsonl``, TensorBoard events if it is installed, and
            finally the model (``out/model``). None: nothing is written.
        show_progress: show a progress bar.
        options: further options; None: the defaults of :class:`~xai_align.training.FitOptions`.
        **changed: single fields of the options, e.g. ``schedule="cosine"``.

    Returns:
        A :class:`Fit`.

    Raises:
        ValueError: an option, the data, the model's shapes or a checkpoint in ``out`` is invalid.
        TypeError: items have a wrong type.
        DivergedError: the loss became NaN or infinite.

    Warns:
        FittingDataWarning: classes without examples, constant images.
        CheckpointWarning: the newest checkpoint was damaged, an older one is used.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378).

    Example::

        train = torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 2)
        loss = PiNetLoss("multiclass", feedback=1000.0)
        fit = fit_pinet(conv_pinet(2, in_channels=3), train, loss=loss, epochs=1, batch_size=4)
        fit.model.explain(images).coefficient_maps  # [N, K, h, w]
    """
    chosen = with_changes(options, FitOptions, changed, "fit_pinet")
    if validation is None:
        chosen = replace(chosen, keep="last")
    settings = FitSettings(
        **vars(chosen), loss=loss, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed
    )
    folder = run_folder(out, settings.resume)
    metric = metric_of(loss.task)
    teacher = teacher_for(model, settings.teacher, loss, trained_parameters(model))
    with preserved_state(model):
        group = ProcessGroup.launched()
        if group.device is not None:
            model.to(group.device)
        group.broadcast_weights(model)
        seed_all(derived_seed(seed, "examination"))  # targets may be random, and are compared when a run resumes
        collate, trained = check_model(model, train, loss, trained_parameters(model))
        data = {
            "train": validate_dataset(train, collate, name="the training data", with_masks=loss.masks > 0),
            "validation": None
            if validation is None
            else validate_dataset(validation, collate, name="the validation data"),
        }
        settings.check_with_data(len(train), group.count, validation is not None)  # type: ignore[arg-type]
        device = parameters_of(model)[0].device
        optimizer = settings.new_optimizer(list(trained.values()))
        config = configuration(
            settings, optimizer, model, trained, data, processes=group.count, teacher=teacher is not None
        )
        steps = epochs * steps_in_epoch(len(train), settings.step_size(group.count))  # type: ignore[arg-type]
        state = NetworkFitState(
            model,
            trained,
            optimizer,
            settings.new_scheduler(optimizer, steps),
            gradient_scaler(device, settings.mixed_precision),
        )
        source = BatchSource(
            group=group,
            device=device,
            precision=settings.mixed_precision,
            collate=collate,
            teacher=teacher,
            num_workers=settings.num_workers,
        )
        notes = run_fit(
            PiNetProgram(
                settings=settings,
                state=state,
                network=model,
                source=source,
                train=train,
                validation=validation,
                metric=metric,
                group=group,
            ),
            state,
            settings,
            epochs=epochs,
            checkpoints=None if folder is None else Checkpoints(folder / "checkpoints", config),
            shown={"loss": "loss", metric.name: metric.name} if show_progress else None,
            validate_every=settings.validate_every,
        )
    if folder is not None and group.is_main:
        _save(model, folder / "model")
    return Fit(model=model, metric=metric.name, notes=(*rounding_notes(trained), *notes), out=folder, **state.result())


def _save(model: nn.Module, folder: Path) -> None:
    """Save by the model's own method, or as plain weights if it has none."""
    save = getattr(model, "save_pretrained", None)
    if callable(save):
        save(folder)
        return
    from safetensors.torch import save_model

    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / "model.safetensors"))
