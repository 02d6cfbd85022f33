"""Compare attribution methods on images, by metrics, with intervals.

Batches of images are explained and judged one after the other, each kept on
disk as it is done; several processes share them; a run that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xai_align._tools.devices import usable_device
from xai_align._tools.progress import progress_bar
from xai_align._tools.random_state import fixed_random_state, mixed_seed
from xai_align.comparison.batch import run_part
from xai_align.comparison.files import check_format, write_record, write_tables
from xai_align.comparison.method_reference import default_methods
from xai_align.comparison.plan import Plan, prepare
from xai_align.comparison.processes import Process, this_process
from xai_align.comparison.result import Comparison
from xai_align.comparison.store import FolderStore, MemoryStore, Part
from xai_align.comparison.summary import Tally

if TYPE_CHECKING:
    from xai_align.data.groups import ClassGroups
    from xai_align.hookspecs import LoadedModel

#: How they are judged if nothing is named.
METRICS = ("insertion", "deletion")
#: Images at once.
BATCH_SIZE = 8

#: Told after each step: explanations done, explanations in all, what failed since it was last told.
Progress = Callable[[int, int, Sequence[str]], None]


def compare(
    model: str | LoadedModel,
    images: Sequence[str | Path] | str | Path,
    *,
    methods: Sequence[str] | None = None,
    metrics: Sequence[str] = METRICS,
    question: str | Sequence[str] = "why",
    classes: Sequence[str | int] = (),
    rivals: Sequence[str | int] = (),
    groups: str | Path | ClassGroups | None = None,
    reference: str | None = None,
    transfer_to: str | LoadedModel | None = None,
    out: str | Path | None = None,
    batch_size: int = BATCH_SIZE,
    limit: int | None = None,
    seed: int = 0,
    pictures: int = 6,
    device: str | None = None,
    internal_batch_size: int | None = None,
    table_format: str = "parquet",
    trust: bool = False,
    show_progress: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Explain images with several methods, judge them by several metrics, sum up with intervals.

    With ``out``, every batch is kept there as soon as it is done. Called again
    with the same settings, what is there is read and the rest is done. Launched
    with ``accelerate launch`` or ``torchrun``, processes share the batches.

    What fails is told in :attr:`Comparison.problems`, its values are NaN, and
    the rest goes on. The model is not changed.

    Args:
        model: a reference such as ``"timm:resnet50"``, or a loaded model.
        images: files, folders and patterns. The same picture twice is counted once. A ``labels.json`` in
            their folder gives labels and boxes, for the metrics that ask for boxes.
        methods: names, or ``"name@layer"`` for methods that look at a layer. None: the ones that are registered as
            ``by_default``: the exact readout, two baselines and a control.
        metrics: names.
        question: one or several of ``why``, ``why-not``, ``why-not-rest``, ``group``, ``group-not``.
        classes: asked about, names or numbers; none: the predicted class of each image.
        rivals: asked against, or ``"others"``; none: the runner-up, or the group beside.
        groups: a JSON file ``{"name": [class, ...]}``, ``"wordnet"``, ``"confusion"``, or groups; None: WordNet's.
        reference: the method that the others are compared with; None: the first.
        transfer_to: a second model, that the metrics ask about the explanations of the first. It sees the
            first one's inputs, in its own scale and size.
        out: the folder for parts, tables, pictures and page; None: nothing is written.
        batch_size: images at once. Methods that draw at random draw once for a batch.
        limit: no more images than these.
        seed: of all that is random.
        pictures: of how many images pictures are made.
        device: e.g. ``"cuda:1"``; None: a GPU if there is one; for a loaded model, where it is.
        internal_batch_size: perturbed inputs through the network at once.
        table_format: ``"parquet"`` or ``"csv"``.
        trust: whether a model's folder may name code, which is then run; see :func:`~xai_align.plugins.load_model`.
        show_progress: show a progress bar.
        progress: told what is done and what failed.

    Raises:
        ValueError: something named is not there or does not fit, before anything is run; or ``out``
            holds a comparison with other settings.
        OSError: ``out`` cannot be written to.
    """
    check_format(table_format)
    process = this_process(device)
    if out is None and process.world > 1:
        raise ValueError("several processes share their results through a folder; name one")
    with fixed_random_state(mixed_seed(seed)):  # loading a model may draw its first weights
        plan = prepare(
            model,
            [images] if isinstance(images, str | Path) else images,
            methods=default_methods() if methods is None else methods,
            metrics=metrics,
            question=question,
            favoured=[str(one) for one in classes],
            rivals=[str(one) for one in rivals],
            groups=groups,
            reference=reference,
            transfer_to=transfer_to,
            batch_size=batch_size,
            limit=limit,
            seed=seed,
            pictures=pictures,
            internal_batch_size=internal_batch_size,
            trust=trust,
            device=lambda: process.device or usable_device(device),
            device_given=device is not None or process.device is not None,
        )
    folder = None if out is None else Path(out)
    store = MemoryStore() if folder is None else FolderStore(folder, plan.settings)
    with progress_bar("comparing", None, shown=show_progress and process.is_main) as bar:
        told = [lambda done, total, problems: bar.move_to(done, total), *([] if progress is None else [progress])]
        _run_parts(plan, store, process, folder, told)
    tally = Tally(plan)
    for part in _finished(plan, store):
        tally.add(part)
    comparison = tally.comparison(values_file="" if folder is None else f"values.{table_format}")
    if folder is not None and process.is_main:
        write_tables(_finished(plan, store), folder, table_format)
        write_record(comparison, folder)
        write_comparison_page(comparison, folder)
    process.wait()
    return comparison


def _run_parts(
    plan: Plan, store: FolderStore | MemoryStore, process: Process, folder: Path | None, told: Sequence[Progress]
) -> None:
    """What is not done yet, this process's share of it."""
    waiting = [number for number in range(plan.num_parts) if store.read(number) is None]
    damaged = {number for number in waiting if store.is_damaged(number)}
    process.wait()  # all have looked before the first writes
    if process.is_main:
        store.begin()
    process.wait()
    mine = waiting[process.rank :: process.world]
    total, done = sum(map(plan.steps, mine)), 0

    def tell(steps: int, problems: Sequence[str] = ()) -> None:
        nonlocal done
        done += steps
        for one in told:
            one(done, total, problems)

    for number in mine:
        part = run_part(plan, number, out=folder, advance=tell)
        if number in damaged:
            part.notes["was computed again, as the part of an earlier run was damaged"] = len(part.images)
        store.write(part)
        tell(0, part.problems)
    process.wait()


def _finished(plan: Plan, store: FolderStore | MemoryStore) -> Iterator[Part]:
    for number in range(plan.num_parts):
        part = store.read(number)
        if part is None:
            raise OSError(f"part {number} is no longer there; run the same again to compute it")
        yield part


def write_comparison_page(comparison: Comparison, folder: Path) -> None:
    """``index.html``; what draws it is imported only now."""
    from xai_align.report import comparison_page

    comparison_page.write_comparison_page(comparison, folder)
