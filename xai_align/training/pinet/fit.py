"""Fitting a PiNet on a CPU, one GPU or several; a killed run resumes at the end of its last epoch."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from xai_align._tools.model_state import parameters_of
from xai_align._tools.options import with_changes
from xai_align._tools.random_state import kept_random_state, seed_all
from xai_align.pinet.network.losses import PiNetLoss
from xai_align.training.choices import Resume
from xai_align.training.epoch_plan import derived_seed, steps_in_epoch
from xai_align.training.pinet.batches import BatchSource
from xai_align.training.pinet.dataset_validation import examine
from xai_align.training.pinet.loop import FitLoop
from xai_align.training.pinet.metric import metric_of
from xai_align.training.pinet.options import FitOptions
from xai_align.training.pinet.progress import progress
from xai_align.training.pinet.run import Run
from xai_align.training.pinet.sanity_checks import first_look, teacher_for
from xai_align.training.pinet.settings import FitSettings
from xai_align.training.preserved_state import accelerator_for, preserved_except_weights, trained_parameters
from xai_align.training.training_log import Row, TrainingLog


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
    settings = FitSettings(
        loss=loss,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        betas=chosen.betas,
        weight_decay=chosen.weight_decay,
        schedule=chosen.schedule,
        patience=chosen.patience,
        stop_at=chosen.stop_at,
        validate_every=chosen.validate_every,
        keep=chosen.keep if validation is not None else "last",
        seed=seed,
        mixed_precision=chosen.mixed_precision,
        passes=chosen.gradient_accumulation_steps,
        make_optimizer=chosen.optimizer,
    )
    folder = _folder(out, chosen.resume)
    trained = trained_parameters(model)
    teacher = teacher_for(model, chosen.teacher, loss, trained)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(kept_random_state())
        accelerator = stack.enter_context(accelerator_for(model, chosen.mixed_precision))
        stack.enter_context(preserved_except_weights(model, list(trained.values())))
        if accelerator.num_processes > 1:
            model.to(accelerator.device)
        seed_all(derived_seed(seed, "examination"))  # targets may be random, and are compared when a run resumes
        collate, trained = first_look(model, train, loss, trained)
        found = {"train": examine(train, collate, name="the training data"), "validation": None}
        if validation is not None:
            found["validation"] = examine(validation, collate, name="the validation data")
        settings.check_with_data(len(train), accelerator.num_processes, validation is not None)  # type: ignore[arg-type]
        run = Run.prepare(model, trained, settings, accelerator, found, teacher is not None, folder)
        notes = run.begin(chosen.resume)
        advance = stack.enter_context(progress(run, steps_in_epoch(len(train), run.step_size), show_progress))  # type: ignore[arg-type]
        journal = TrainingLog(folder if accelerator.is_main_process else None, chosen.log)
        stack.callback(journal.close)
        journal.begin(run.training.history)
        if settings.keep == "best":
            stack.callback(run.training.take_best_weights)
        loop = FitLoop(
            settings=settings,
            training=run.training,
            model=model,
            wrapped=run.wrapped,
            optimizer=run.optimizer,
            source=BatchSource(
                accelerator=accelerator,
                device=parameters_of(model)[0].device,
                collate=collate,
                teacher=teacher,
                num_workers=chosen.num_workers,
            ),
            train=train,
            validation=validation,
            metric=metric_of(loss.task),
            tell=journal.add,
            advance=advance,
        )
        while run.training.epoch < epochs and not run.training.stopped:
            loop.run_epoch()
            run.keep()
        is_main = accelerator.is_main_process
    if folder is not None and is_main:
        _save(model, folder / "model")
    return Fit(
        model=model,
        metric=metric_of(loss.task).name,
        best=run.training.best,
        history=run.training.history,
        epochs=run.training.epoch,
        steps=run.training.step,
        stopped=run.training.stopped or "epochs",
        seconds=run.training.seconds,
        notes=notes,
        out=folder,
    )


def _folder(out: str | Path | None, resume: Resume) -> Path | None:
    if resume not in ("auto", "must", "never"):
        raise ValueError(f"resume is '{resume}'; choose 'auto', 'must' or 'never'")
    if out is None and resume == "must":
        raise ValueError("there is no folder to resume from; give out=...")
    return None if out is None else Path(out)


def _save(model: nn.Module, folder: Path) -> None:
    """Save by the model's own method, or as plain weights if it has none."""
    save = getattr(model, "save_pretrained", None)
    if callable(save):
        save(folder)
        return
    from safetensors.torch import save_model

    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / "model.safetensors"))
