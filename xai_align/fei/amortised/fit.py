"""Fitting an amortised explainer to a network, on photographs without labels; a killed run resumes."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_integer, check_number, check_seed
from xai_align._tools.counted import counted
from xai_align._tools.drawn import permutation
from xai_align._tools.logits import select_logits
from xai_align._tools.options import with_changes
from xai_align._tools.random_state import fixed_random_state
from xai_align._tools.refused_images import refused_images
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.unwrapping import unwrapped
from xai_align.fei.amortised.curve_objective import CurveObjective
from xai_align.fei.amortised.explained_network import ExplainedNetwork
from xai_align.fei.amortised.explainer import AmortisedExplainer
from xai_align.fei.amortised.explainer_file import header_of, save_explainer
from xai_align.fei.amortised.fingerprint import Fingerprint
from xai_align.fei.amortised.options import FitFEIOptions
from xai_align.fei.amortised.program import Asked, FEIProgram
from xai_align.fei.amortised.score_network import ScoreNetwork
from xai_align.fei.amortised.unlabelled_images import UnlabelledImages
from xai_align.fei.composites import check_image_model
from xai_align.fei.random_fills import random_fills
from xai_align.fei.solid_colours import Normalization
from xai_align.pinet.input_checks import check_comparable, check_logits, check_model
from xai_align.question import QuestionModel
from xai_align.training.checkpoints import Checkpoints
from xai_align.training.description import described_optimizer, described_parameters
from xai_align.training.digest import DigestOfRows, digest_of
from xai_align.training.epoch_plan import derived_seed, steps_in_epoch
from xai_align.training.network_fit_state import NetworkFitState
from xai_align.training.preserved_state import preserved_state, trained_parameters
from xai_align.training.process_group import ProcessGroup
from xai_align.training.run import run_fit, run_folder
from xai_align.training.training_log import Row

#: The explainer's file in the folder of a fit.
EXPLAINER_FILE = "explainer.safetensors"
#: Fewer images are not divided into those of training and held-out ones.
LEAST_TO_DIVIDE = 10
#: Options that two runs must share for one to resume the other.
_IDENTIFYING = (
    *("width", "depth", "validation_share", "runner_up", "fills", "temperatures", "deviation_weight", "weight_decay"),
    *("keep", "patience", "mixed_precision", "gradient_accumulation_steps"),
)


@dataclass(frozen=True, kw_only=True)
class FEIFit:
    """Result of :func:`fit_fei`.

    Attributes:
        explainer: the fitted explainer, for :class:`~xai_align.fei.AmortisedFEI`, with the weights that ``keep``
            selects.
        best: the row of the best validation that was better than the readout's maps; None: none was, or there was no
            validation.
        history: one row per epoch: epoch, step, seconds, learning_rate, loss; of held-out images validation_loss and
            validation_start, the loss of the readout's maps; and whether it was the best so far.
        epochs, steps: numbers of epochs and steps, including those before a resumption.
        stopped: "epochs": all epochs ran. "patience": validation stopped improving.
        seconds: time for training and validation, including the time before a resumption.
        notes: remarks on the fit, e.g. about a resumption.
        out: folder with checkpoints, metrics and the explainer.

    Example::

        fitted = fit_fei(model, torch.rand(12, 3, 32, 32), epochs=2, batch_size=4)
        fitted.history[-1]["validation_loss"], fitted.history[-1]["validation_start"]
    """

    explainer: AmortisedExplainer
    best: Row | None
    history: list[Row] = field(repr=False)
    epochs: int
    steps: int
    stopped: str
    seconds: float
    notes: tuple[str, ...] = ()
    out: Path | None = None


@restores_thread_state
def fit_fei(
    model: nn.Module,
    images: Any,
    validation: Any = None,
    *,
    epochs: int = 20,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    normalization: Normalization | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    show_progress: bool = False,
    options: FitFEIOptions | None = None,
    loaded_by: dict[str, Any] | None = None,
    **changed: Any,
) -> FEIFit:
    """Fit a score network that gives this model's ``fei`` maps in one pass, on images without labels.

    The model is not changed. A step takes one forward pass of it for the score network's inputs, and a forward and a
    backward pass for two composites of each image. Memory does not depend on the number of images.

    Two runs with the same arguments are bitwise equal on a CPU with the same number of threads. With ``out``, a
    repeated call resumes from the end of the last complete epoch, as if it had never stopped, and at any moment
    ``out/explainer.safetensors`` holds a usable explainer.

    Args:
        model: in eval mode, gives logits ``[N, K]``; may be compiled or data-parallel.
        images: a tensor ``[N, C, H, W]``; a data set of images ``[C, H, W]``, or of tuples that begin with one; or a
            ``DataLoader``, of which the data set is taken. Preprocessed, and all of the size that the model is used
            with. Photographs like those that are to be explained; a few thousand.
        validation: the same, held out; None: a share of ``images``.
        epochs: number of epochs; in each an image is seen once, at one share, mirrored or not.
        batch_size: images in a forward pass; a composite pass has twice as many.
        learning_rate: of AdamW at the first step; it falls to zero along a cosine.
        normalization: ``(mean, std)`` of the images, for solid colours from the full range of an image. None: from
            each image's own range.
        seed: of the initial weights, order, flips, questions, fills and shifts.
        out: folder for checkpoints, ``metrics.csv``, ``metrics.jsonl`` and ``explainer.safetensors``. None: nothing is
            written.
        show_progress: show a progress bar.
        options: further options; None: the defaults of :class:`~xai_align.fei.FitFEIOptions`.
        loaded_by: how the model is loaded again: ``reference``, ``img_size``, ``in_chans``, ``mean`` and ``std``, so
            that a reference ``fei:FILE`` finds it. None: it can't.
        **changed: single fields of the options, e.g. ``width=16``.

    Returns:
        A :class:`~xai_align.fei.FEIFit`.

    Raises:
        TypeError, ValueError: the model, the images, an option or a checkpoint in ``out`` is invalid.
        DivergedError: the loss became NaN or infinite.

    Source: ours; the loss is that of the solver "curve", after FEI, Zhang & McMillan (arXiv 2509.04588).

    Example::

        fitted = fit_fei(model, torch.rand(4, 3, 32, 32), epochs=1, batch_size=2)  # in practice, thousands of images
        AmortisedFEI(model, fitted).attribute(images, target=281).sum(1)  # [N, 32, 32]
    """
    chosen = with_changes(options, FitFEIOptions, changed, "fit_fei")
    check_integer("epochs", epochs)
    check_integer("batch_size", batch_size)
    check_number("learning_rate", learning_rate, above=0)
    check_seed(seed)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("fit_fei runs in one process, and several were launched; start it without a launcher")
    folder = run_folder(out, chosen.resume)
    with torch.inference_mode(False):
        ready = _Prepared.of(model, images, validation, chosen, normalization, batch_size=batch_size, seed=seed)
        notes = []
        if ready.held is None:
            chosen = replace(chosen, keep="last")
            notes = ["no images were held out, so the last weights are kept and there is no held-out loss"]
        if ready.constant:
            notes.append(
                "the network gives the same logits for all images, so maps have no effect on its answers and there was "
                "nothing to fit; check its weights and the preprocessing"
            )
        with fixed_random_state(derived_seed(seed, "initial weights")):
            channels = ready.explained.channels(ready.example)
            with torch.device("cpu"):
                scores = ScoreNetwork(channels, ready.example.shape[1], width=chosen.width, depth=chosen.depth)
        scores.to(ready.example.device, torch.float64 if ready.example.dtype == torch.float64 else torch.float32)
        explainer = AmortisedExplainer(network=scores, fingerprint=ready.fingerprint, model=loaded_by)
        header_of(explainer)  # raises if it can't be saved
        with preserved_state(scores):
            trained = trained_parameters(scores)
            optimizer = torch.optim.AdamW(list(trained.values()), learning_rate, weight_decay=chosen.weight_decay)
            begun = {"optimizer": described_optimizer(optimizer), "trained": described_parameters(trained)}
            per_step = batch_size * chosen.gradient_accumulation_steps
            total = epochs * steps_in_epoch(len(ready.train.numbers), per_step)
            # from the full rate to zero over half a period
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: (1 + math.cos(math.pi * min(step / total, 1))) / 2
            )
            state = NetworkFitState(scores, trained, optimizer, schedule)

            def write() -> None:
                if folder is not None:
                    save_explainer(replace(explainer, numbers=_numbers(ready, state)), folder / EXPLAINER_FILE)

            program = FEIProgram(
                options=chosen,
                batch_size=batch_size,
                seed=seed,
                state=state,
                network=scores,
                objective=ready.objective(chosen, normalization),
                train=ready.train,
                validation=ready.held,
                device=ready.example.device,
                group=ProcessGroup(),
                write=write,
            )
            config = {
                **{name: _plain(getattr(chosen, name)) for name in _IDENTIFYING},
                "epochs": epochs,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "seed": seed,
                "network": ready.fingerprint.values() | {"answer": None},
                "images": ready.described(),
                **begun,
            }
            if folder is not None and not (folder / EXPLAINER_FILE).exists():
                write()  # from now on there is always one
            notes += run_fit(
                program,
                state,
                chosen,
                epochs=epochs,
                checkpoints=None if folder is None else Checkpoints(folder / "checkpoints", config),
                shown={"loss": "loss", "validation_loss": "held out"} if show_progress else None,
            )
            write()
    done = replace(explainer, network=scores.eval(), numbers=_numbers(ready, state))
    return FEIFit(explainer=done, notes=tuple(notes), out=folder, **state.result())


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """Network and images of a fit, checked.

    Attributes:
        network: the explained network.
        explained: the same, as a score network sees it.
        example: the first image, ``[1, C, H, W]``.
        fingerprint: of the network.
        train, held: the images; None: none are held out.
        content: digest of all images.
        constant: whether the network gives the same logits for all images.
    """

    network: nn.Module
    explained: ExplainedNetwork
    example: Tensor
    fingerprint: Fingerprint
    train: Asked
    held: Asked | None
    content: str
    constant: bool

    @classmethod
    def of(
        cls,
        model: nn.Module,
        images: Any,
        validation: Any,
        options: FitFEIOptions,
        normalization: Normalization | None,
        *,
        batch_size: int,
        seed: int,
    ) -> _Prepared:
        """Check and read everything that a fit needs.

        Raises:
            TypeError, ValueError: something is invalid.
        """
        network = unwrapped(model)[0]
        if isinstance(network, QuestionModel):
            raise TypeError("fit_fei fits an explainer to a network for all questions; give the network itself")
        every = UnlabelledImages(images, "the images")
        check_model(network)
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        example = every.take([0]).to(device)
        check_image_model(network, example)
        with refused_images(network, example), torch.no_grad():
            logits = check_logits(select_logits(network(example.clone())))
            copy = Replica(network).module
            check_comparable(lambda images: check_logits(select_logits(copy(images))), example, logits)
        random_fills(
            example, options.fills, torch.Generator(), normalization=normalization
        )  # raises if a fill is unknown
        explained = ExplainedNetwork(network, example)
        classes, content, differ = most_probable(explained, every, batch_size, device)
        held: Asked | None
        if validation is None:
            train, held = _divided(every, classes, options.validation_share, seed)
        else:
            others = UnlabelledImages(validation, "the validation images")
            if others.shape != every.shape:
                raise ValueError(
                    f"the validation images have shape {list(others.shape)} and the images {list(every.shape)}; "
                    "prepare both alike"
                )
            train = Asked(every, range(len(every)), classes)
            of_others, more, _ = most_probable(explained, others, batch_size, device)
            held = Asked(others, range(len(others)), of_others)
            content += more
        if held is None and options.patience is not None:
            raise ValueError("patience needs held-out images; give validation=..., or more images")
        fingerprint = Fingerprint.of(network, explained, example, normalization)
        return cls(
            network=network,
            explained=explained,
            example=example,
            fingerprint=fingerprint,
            train=train,
            held=held,
            content=content,
            constant=len(every) > 1 and not differ,
        )

    def objective(self, options: FitFEIOptions, normalization: Normalization | None) -> CurveObjective:
        """Return the loss of maps on this network."""
        return CurveObjective.on(
            self.network,
            self.explained,
            self.example,
            fills=options.fills,
            normalization=normalization,
            deviation_weight=options.deviation_weight,
            precision=options.mixed_precision,
        )

    def described(self) -> dict[str, Any]:
        """Return what two runs must share of their images: their content, number, size, and the network's classes."""
        parts = {"train": self.train} | ({} if self.held is None else {"held out": self.held})
        return {"content": self.content} | {
            name: {
                "count": len(one.numbers),
                "shape": list(one.images.shape),
                "predictions": digest_of({"classes": one.classes[list(one.numbers)]}),
            }
            for name, one in parts.items()
        }


def _divided(images: UnlabelledImages, classes: Tensor, share: float, seed: int) -> tuple[Asked, Asked | None]:
    """Return the images to train on, and those that are held out."""
    count = len(images)
    held = 0 if count < LEAST_TO_DIVIDE or not share else max(round(count * share), 1)
    order = permutation(count, torch.Generator().manual_seed(derived_seed(seed, "held out"))).tolist()
    train, others = sorted(order[held:]), sorted(order[:held])
    if not train:
        raise ValueError(
            f"validation_share={share:g} would hold out all {counted(count, 'image')}; give a smaller share"
        )
    return Asked(images, train, classes), Asked(images, others, classes) if held else None


def _numbers(ready: _Prepared, state: NetworkFitState) -> dict[str, Any]:
    """Return the figures that are saved with the explainer."""
    last: Row = state.history[-1] if state.history else {}
    best: Row = state.best or {}
    return {
        "images": len(ready.train.numbers),
        "held_out": 0 if ready.held is None else len(ready.held.numbers),
        "epochs": state.epoch,
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "validation_loss": best.get("validation_loss", last.get("validation_start")),
        "validation_start": last.get("validation_start"),
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def most_probable(
    explained: ExplainedNetwork, images: UnlabelledImages, batch_size: int, device: Any
) -> tuple[Tensor, str, bool]:
    """Return each image's two most probable classes, ``[N, 2]``, a digest of the images, and whether logits differ.

    The classes are zeros for a network with one output.

    Raises:
        ValueError: the network's outputs are not logits ``[N, K]``, or not finite.
    """
    found, digest, differ = [], DigestOfRows(), False
    one: Tensor | None = None  # the logits of an image
    for first in range(0, len(images), batch_size):
        some = images.take(range(first, min(first + batch_size, len(images))))
        digest.add(some)
        x = some.to(device)
        logits = select_logits(explained.logits(x))
        if logits.dim() != 2 or len(logits) != len(x):
            raise ValueError(
                f"the network gave {list(logits.shape)} for {counted(len(x), 'image')}; fit_fei needs logits [N, K], "
                "and dense outputs are explained by the method 'fei'"
            )
        if not bool(logits.isfinite().all()):
            raise ValueError(f"the network gave NaN or infinity for images {first} to {first + len(x) - 1}")
        one = logits[:1] if one is None else one
        differ = differ or bool((logits != one).any())
        found.append(logits.topk(min(2, logits.shape[1]), dim=1).indices.cpu())
    classes = torch.cat(found)
    return (classes if classes.shape[1] == 2 else classes.repeat(1, 2)), digest.value(), differ
