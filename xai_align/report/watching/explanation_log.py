"""Explanations of fixed pictures at every epoch of a training, within a share of its time."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from xai_align._tools.callers_level import callers_level
from xai_align._tools.checks import check_finite, check_integer
from xai_align._tools.counted import counted
from xai_align._tools.files.name_part import name_part
from xai_align._tools.random_state import fixed_random_state
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import hides_interrupt, restores_thread_state
from xai_align.data.model_picture import scaled_picture
from xai_align.data.overlay import coloured, density
from xai_align.explanation import Explanation, explain
from xai_align.features.unwrapping import unwrapped
from xai_align.question import Question, as_questions
from xai_align.report.watching.observation import Observation, account_of, agreement_with, mean_numbers
from xai_align.report.watching.time_budget import OutOfTime, TimeBudget
from xai_align.report.watching.writers import Writer, check_writer, writer_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Longest side of an overlay, in pixels.
_SIDE = 256


@dataclass
class _State:
    """State of one training.

    Attributes:
        calls: of :meth:`ExplanationLog.step`.
        step: the number of the last call.
        written: the step of the last observations.
        before: question and map of each picture when it was last written.
        shown: numbers of the pictures that were written themselves.
        open: the writer, from the first write on.
        skipping: whether it was said that calls are skipped.
    """

    calls: int = 0
    step: int = 0
    written: int | None = None
    before: dict[int, tuple[Question, Tensor]] = field(default_factory=dict)
    shown: set[int] = field(default_factory=set)
    open: Writer | None = None
    skipping: bool = False


class ExplanationLog:
    """Log of the explanations of fixed pictures while a network trains.

    Call :meth:`step` at each epoch, or as often as wanted, and :meth:`finish` at the end. The network is only read:
    a structural copy of it, in eval mode, is explained. Training with and without the log gives the same weights.
    Random state is restored.

    The log measures its own time, and all calls together stay within ``share`` of the time since :meth:`start`, after
    each of them. The time of a call is predicted from earlier ones. The first one begins with one picture, which is
    stopped if it takes too long, and continues with the others if there is time for them; later ones are made for all
    pictures or not at all; and :meth:`finish` explains as many as there is time for, from the first on. Without a call
    of :meth:`start`, time begins with the first call, which is made. The time for opening the writer is not counted.

    For each picture, the log writes the overlay and the numbers of :class:`Observation`, their means, the seconds
    of the call and the share of time so far; and the pictures themselves, once.

    Args:
        images: ``[N, C, H, W]``, prepared for the network. They are moved to its device and dtype.
        question: as in :func:`~xai_align.explain`: the classes of the pictures, ``[N]``, or questions. None: why the
            predicted class? Then a map is compared with the previous one only if the prediction is the same.
        method: a name from ``xai-align methods``; None: the exact readout.
        writer: ``"tensorboard"``, ``"wandb"``, ``"mlflow"``, ``"folder"``, or a :class:`Writer`. None: the active run
            of Weights & Biases, else that of MLflow, else TensorBoard if it is installed, else files.
        folder: of TensorBoard's events, or of the files.
        names: of the pictures; None: "1", "2", ...
        scale: mean and standard deviation of the images' normalisation, to show the pictures; None: the values are
            stretched to [0, 1].
        every: only every so many calls of :meth:`step` are made.
        share: largest share of time, in (0, 1]; 1: every call is made, for all pictures.
        batch_size: number of pictures that are explained at once.
        clock: returns seconds.
        **options: passed to :func:`~xai_align.explain`, such as ``layer`` and ``output``.

    Raises:
        TargetError: there is not one question, or one for each picture.
        TypeError, ValueError: an argument is not of the kind described.

    Example::

        from xai_align.report.watching import ExplanationLog

        log = ExplanationLog(images, labels, folder=folder)
        for epoch in range(2):
            ...  # train
            log.step(model, epoch)
        log.finish(model)
    """

    def __init__(
        self,
        images: Tensor,
        question: Any = None,
        *,
        method: str | None = None,
        writer: Writer | str | None = None,
        folder: str | Path = "explanations",
        names: Sequence[str] | None = None,
        scale: tuple[Sequence[float], Sequence[float]] | None = None,
        every: int = 1,
        share: float = 0.02,
        batch_size: int = 8,
        clock: Callable[[], float] = perf_counter,
        **options: Any,
    ) -> None:
        self._images = _checked_images(images)
        self._questions = None if question is None else as_questions(question, len(images))
        self._names = _checked_names(names, len(images))
        check_writer(writer)
        self.writer, self.folder = writer, Path(folder)
        self._method, self._options, self._scale = method, options, scale
        self._every, self._batch_size = check_integer("every", every), check_integer("batch_size", batch_size)
        self._budget = TimeBudget(share, clock)
        self._state = _State()

    def start(self) -> None:
        """Begin to count time, at the start of the training. State of an earlier training is discarded."""
        self._state = _State()
        self._budget.start()

    def step(self, model: nn.Module, step: int | None = None) -> tuple[Observation, ...] | None:
        """Explain the pictures and write the results, if an explanation is due.

        Args:
            model: the network that is trained, in any mode.
            step: number of the epoch or step, for the writer; None: of the call, from 0.

        Returns:
            One observation for each picture, or for the first one alone if there was no time for others; None if the
            call was skipped, or failed after an earlier one succeeded. A failure then is a warning, because it should
            not end a training.

        Raises:
            ModuleNotFoundError: the package of the writer is not installed.
            TypeError, ValueError: at the first call: the model is not a network, or pictures, question and method do
                not fit it.
        """
        number = self._state.calls if step is None else check_integer("step", step, least=0)
        due = self._state.calls % self._every == 0
        self._state.calls, self._state.step = self._state.calls + 1, number
        if not due:
            return None
        if not self._budget.is_limited:
            return self._observe_and_write(model, number, len(self._images))
        if not self._budget.is_known:
            return self._first_look(model, number)
        if self._budget.affordable(len(self._images)) < len(self._images):
            self._say_once_that_calls_are_skipped()
            return None
        return self._observe_and_write(model, number, len(self._images))

    def finish(self, model: nn.Module, step: int | None = None) -> tuple[Observation, ...] | None:
        """Explain as many pictures as there is time for at the end of the training, and close the writer.

        Args:
            model: the network.
            step: as for :meth:`step`; None: that of the last call. Results of this step are not written twice.

        Returns:
            As :meth:`step`.
        """
        number = self._state.step if step is None else check_integer("step", step, least=0)
        try:
            if self._state.written == number:
                return None
            if not self._budget.is_limited:
                return self._observe_and_write(model, number, len(self._images))
            if self._budget.is_known:
                count = self._budget.affordable(len(self._images))
                return self._observe_and_write(model, number, count) if count else None
            found = self._first_look(model, number)
            if found is None:
                self._say_that_nothing_was_written()
            return found
        finally:
            if self._state.open is not None:
                self._state.open.close()
                self._state.open = None

    @property
    def share_of_time(self) -> float:
        """Share of the time since the start that was spent here; 0 before the first call."""
        return self._budget.spent / self._budget.elapsed if self._budget.spent else 0.0

    def _first_look(self, model: nn.Module, step: int) -> tuple[Observation, ...] | None:
        """Explain one picture within the available time, and then the others if there is time for all of them."""
        return self._observe_and_write(model, step, 1, first=True) if self._budget.may_try else None

    def _observe_and_write(
        self, model: nn.Module, step: int, count: int, *, first: bool = False
    ) -> tuple[Observation, ...] | None:
        """Explain the first ``count`` pictures and write the results; ``first``: see :meth:`_first_look`."""
        try:
            if self._state.open is None:
                self._state.open = writer_for(self.writer, self.folder)
            before = self._budget.spent
            with self._budget.spending(count):
                with self._budget.within() if first else nullcontext():
                    observations = self._observed(model, range(count))
                self._write(observations, step)
            others = range(count, len(self._images))
            if first and others and self._budget.affordable(len(others)) == len(others):
                with self._budget.spending(len(others)):
                    more = self._observed(model, others)
                    self._write(more, step)
                observations += more
            for what, value in mean_numbers(observations).items():
                self._state.open.number(f"{what}/mean", value, step)
            self._state.open.number("seconds", self._budget.spent - before, step)
            self._state.open.number("share_of_time", self.share_of_time, step)
        except OutOfTime:
            return None
        except Exception as error:
            if self._state.written is None or hides_interrupt(error):
                raise
            text = (
                f"the explanations at step {step} are missing ({type(error).__name__}: {error}); the training goes on"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=callers_level())
            return None
        self._state.before.update((index, (one.question, one.map)) for index, one in enumerate(observations))
        self._state.written = step
        return observations

    @restores_thread_state
    def _observed(self, model: nn.Module, pictures: range) -> tuple[Observation, ...]:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; give the network that is trained, an nn.Module")
        found: list[Observation] = []
        # Lightning validates in inference mode, and its tensors have no gradients
        with torch.inference_mode(False), torch.enable_grad(), fixed_random_state(0):
            network = _in_eval_mode(model)
            images = _on_model(self._images, network)
            for first in range(pictures.start, pictures.stop, self._batch_size):
                part = slice(first, min(first + self._batch_size, pictures.stop))
                asked = None if self._questions is None else self._questions[part]
                explained = explain(network, images[part], asked, self._method, **self._options)
                found += [self._observation(explained, first, index) for index in range(len(explained.answer))]
        return tuple(found)

    def _observation(self, explained: Explanation, first: int, index: int) -> Observation:
        question, values = explained.questions[index], explained.map[index].detach().cpu().float()
        check_finite(f"the map of the picture '{self._names[first + index]}'", values)
        before = self._state.before.get(first + index)
        shown = _small(self._picture(first + index))
        return Observation(
            name=self._names[first + index],
            question=question,
            map=values,
            overlay=_bytes(coloured(shown, density(values, shown.shape[:2]), signed=explained.signed)),
            **account_of(explained, index),
            **agreement_with(before[1] if before and before[0] == question else None, values),
        )

    def _write(self, observations: tuple[Observation, ...], step: int) -> None:
        assert self._state.open is not None
        for one in observations:
            number = self._names.index(one.name)
            if number not in self._state.shown:
                self._state.open.image(f"picture/{one.name}", _bytes(_small(self._picture(number))), step)
                self._state.shown.add(number)
            self._state.open.image(f"map/{one.name}", one.overlay, step)
            for what, value in one.numbers.items():
                self._state.open.number(f"{what}/{one.name}", value, step)

    def _picture(self, number: int) -> NDArray[np.float64]:
        return scaled_picture(self._images[number], self._scale)

    def _say_once_that_calls_are_skipped(self) -> None:
        if self._state.skipping:
            return
        self._state.skipping = True
        share, takes = self._budget.share, self._budget.seconds_of(len(self._images))
        warnings.warn(
            f"explaining {counted(len(self._images), 'picture')} takes {takes:.2g} s, and {100 * share:.3g} % of the "
            "time "
            f"allows that every {takes / share:.2g} s; calls in between are skipped. For more of them, give fewer "
            "pictures or a larger share.",
            UserWarning,
            stacklevel=callers_level(),
        )

    def _say_that_nothing_was_written(self) -> None:
        budget = self._budget
        warnings.warn(
            f"no explanation was written: {100 * budget.share:.3g} % of the training's {budget.elapsed:.2g} s are "
            f"{budget.share * budget.elapsed:.2g} s, less than one picture takes. With share=1 every call is made.",
            UserWarning,
            stacklevel=callers_level(),
        )


def _in_eval_mode(model: nn.Module) -> nn.Module:
    """Return a structural copy of the network in eval mode, without wrappers for several devices."""
    network, feature_space = unwrapped(model)
    if feature_space is not None:  # it says where to read
        network = model
    copy: nn.Module = Replica(network, evaluate=True).module
    return copy


def _on_model(images: Tensor, network: nn.Module) -> Tensor:
    """Return the images on the device and in the dtype of the network's first parameter."""
    first = next((one for one in network.state_dict().values() if one.is_floating_point()), None)
    return images if first is None else images.to(first.device, first.dtype)


def _small(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a picture ``[H, W, 3]`` with sides of at most 256 pixels."""
    shrink = _SIDE / max(picture.shape[:2])
    if shrink >= 1:
        return picture
    size = [max(1, round(shrink * side)) for side in picture.shape[:2]]
    channels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    return np.asarray(nn.functional.interpolate(channels, size, mode="area")[0].permute(1, 2, 0).numpy())


def _bytes(picture: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray((255 * picture).round(), np.uint8)


def _checked_images(images: Any) -> Tensor:
    """Return the images on the CPU, as a copy that later changes of the batch do not affect."""
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point() or not len(images):
        found = (
            f"{list(images.shape)} of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        )
        raise ValueError(f"images must be a floating tensor [N, C, H, W] with at least one picture, got {found}")
    check_finite("images", images)
    with torch.inference_mode(False):
        return images.detach().to("cpu", copy=True)


def _checked_names(names: Sequence[str] | None, count: int) -> list[str]:
    """Return a name for each picture, of characters that every writer accepts.

    Raises:
        ValueError: there are more or fewer names than pictures, two are the same, or one is "mean".
    """
    if names is None:
        return [str(number) for number in range(1, count + 1)]
    if isinstance(names, str) or len(names) != count:
        raise ValueError(f"names are {names!r}; give one for each of the {count} picture(s)")
    ascii_names = (re.sub(r"[^\w\-. ]", "-", str(name), flags=re.ASCII).strip(" .") or "picture" for name in names)
    plain = [name_part(name) for name in ascii_names]
    twice = {name for name in plain if plain.count(name) > 1}
    if twice or "mean" in plain:
        wrong = f"'{sorted(twice)[0]}' stands for two pictures" if twice else "'mean' is the name of the means"
        raise ValueError(f"names must be different, in letters, digits, '-', '_' and '.': {wrong}; choose another name")
    return plain
