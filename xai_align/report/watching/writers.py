"""Writers of pictures and numbers: TensorBoard, Weights & Biases, MLflow, or files in a folder.

The three packages are optional, and each is imported when its writer is created.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from xai_align._tools.checks import check_choice
from xai_align._tools.files.inside_folder import is_plain_name
from xai_align._tools.files.whole_file import write_whole, writing
from xai_align._tools.optional_package import optional_package
from xai_align._tools.png import photograph_png

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: First part of all names, where they share a place with other names.
PREFIX = "explanations/"


@runtime_checkable
class Writer(Protocol):
    """Destination of pictures and numbers. A custom class needs these three methods.

    Example::

        class Printed:
            def image(self, name, picture, step):
                pass

            def number(self, name, value, step):
                print(f"{step}: {name} = {value:.3g}")

            def close(self):
                pass


        from xai_align.report.watching import ExplanationLog

        ExplanationLog(images, labels, writer=Printed()).step(model)
    """

    def image(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Write a picture ``[H, W, 3]``, uint8. Names have parts divided by ``/``."""

    def number(self, name: str, value: float, step: int) -> None:
        """Write a finite number."""

    def close(self) -> None:
        """Write pending data."""


class FolderWriter:
    """Writer of files: ``NAME/000012.png`` for each picture, and a row ``step,name,value`` in ``numbers.csv``.

    Args:
        folder: created at the first write; rows are appended to an existing table.

    Example::

        import numpy as np
        from xai_align.report.watching import FolderWriter

        FolderWriter(folder).image("noise", np.zeros((8, 8, 3), np.uint8), 0)  # folder/noise/000000.png
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def image(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Write a PNG file.

        Raises:
            ValueError: the name leads out of the folder.
            OSError: the file cannot be written; the message names it.
        """
        if not is_plain_name(name):
            raise ValueError(f"the name {name[:100]!r} leads out of the folder '{self._folder}'; leave out .. and \\")
        path = self._folder / name / f"{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, photograph_png(picture / 255))

    def number(self, name: str, value: float, step: int) -> None:
        """Append a row.

        Raises:
            OSError: the file cannot be written; the message names it.
        """
        path = self._folder / "numbers.csv"
        self._folder.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        if not path.exists():
            rows.writerow(("step", "name", "value"))
        rows.writerow((step, name, repr(value)))
        with writing(path), path.open("a", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())

    def close(self) -> None:
        """Do nothing: every row is in its file."""


class TensorBoardWriter:
    """Writer of TensorBoard's event files.

    Args:
        place: a folder, or a ``torch.utils.tensorboard.SummaryWriter`` of the user, which stays open.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
    """

    def __init__(self, place: Any) -> None:
        self._own = isinstance(place, str | Path)
        if self._own:
            with optional_package(None, "tensorboard", "TensorBoard's event files"):
                from torch.utils.tensorboard import SummaryWriter
            place = SummaryWriter(str(place))
        self._board: Any = place

    def image(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Write a picture for the tab "Images"."""
        self._board.add_image(PREFIX + name, picture, step, dataformats="HWC")

    def number(self, name: str, value: float, step: int) -> None:
        """Write a number for the tab "Scalars"."""
        self._board.add_scalar(PREFIX + name, value, step)

    def close(self) -> None:
        """Flush the events; close a file that was opened here."""
        self._board.flush()
        if self._own:
            self._board.close()


class WandbWriter:
    """Writer into a run of Weights & Biases, with a separate axis, ``explanations/step``.

    The run's own step is not advanced: rows are kept and added to the next row that the training logs.

    Args:
        run: a run; None: the active one.

    Raises:
        ModuleNotFoundError: wandb is not installed.
        ValueError: no run is active.
    """

    def __init__(self, run: Any = None) -> None:
        with optional_package(None, "wandb", "rows in Weights & Biases"):
            import wandb
        run = wandb.run if run is None else run
        if run is None:
            raise ValueError("no run of Weights & Biases is active; call wandb.init() before the training")
        self._run, self._image = run, wandb.Image
        #: Our step and the run's at the last row.
        self._last: tuple[int, int] | None = None
        run.define_metric(f"{PREFIX}step")
        run.define_metric(f"{PREFIX}*", step_metric=f"{PREFIX}step")

    def image(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Log a ``wandb.Image``."""
        self._log(name, self._image(picture), step)

    def number(self, name: str, value: float, step: int) -> None:
        """Log a number."""
        self._log(name, value, step)

    def close(self) -> None:
        """Send the pending row."""
        if self._last is not None and self._last[1] == self._run.step:
            self._run.log({}, commit=True)
        self._last = None

    def _log(self, name: str, value: Any, step: int) -> None:
        if self._last is not None and self._last[0] != step:
            self.close()  # the training logged nothing since: the new values would replace those that wait
        self._run.log({PREFIX + name: value, f"{PREFIX}step": step}, commit=False)
        self._last = step, self._run.step


class MlflowWriter:
    """Writer into a run of MLflow.

    Args:
        client: a ``mlflow.MlflowClient``; None: that of the active run.
        run_id: the run's id, with a client.

    Raises:
        ModuleNotFoundError: mlflow is not installed.
        ValueError: no run is active.
    """

    def __init__(self, client: Any = None, run_id: str | None = None) -> None:
        if client is None:
            with optional_package(None, "mlflow", "rows in MLflow"):
                import mlflow
            run = mlflow.active_run()
            if run is None:
                raise ValueError("no run of MLflow is active; call mlflow.start_run() before the training")
            client, run_id = mlflow.MlflowClient(), run.info.run_id
        self._client, self._run_id = client, run_id

    def image(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Log an image of the run."""
        self._client.log_image(self._run_id, picture, key=PREFIX + name, step=step)

    def number(self, name: str, value: float, step: int) -> None:
        """Log a metric."""
        self._client.log_metric(self._run_id, PREFIX + name, value, step=step)

    def close(self) -> None:
        """Do nothing: every row has been sent."""


#: Makers of writers by name, each from the folder.
WRITERS: dict[str, Any] = {
    "tensorboard": TensorBoardWriter,
    "wandb": lambda folder: WandbWriter(),
    "mlflow": lambda folder: MlflowWriter(),
    "folder": FolderWriter,
}


def writer_for(chosen: Writer | str | None, folder: Path) -> Writer:
    """Return a writer.

    Args:
        chosen: a writer; a name of :data:`WRITERS`; None: the active run of Weights & Biases, else that of MLflow, else
            TensorBoard if it is installed, else files.
        folder: of TensorBoard's events, or of the files.

    Raises:
        ModuleNotFoundError: the package of that name is not installed.
        TypeError: it is none of them.
        ValueError: the name is not known, or it has no active run.
    """
    if chosen is None:
        return _whichever(folder)
    if isinstance(chosen, str):
        made: Writer = WRITERS[check_choice("writer", chosen, WRITERS)](folder)
        return made
    check_writer(chosen)
    return chosen


def check_writer(chosen: Any) -> None:
    """Check that ``chosen`` is a writer, the name of one, or None.

    Raises:
        TypeError: it is something else.
        ValueError: the name is not known.
    """
    if isinstance(chosen, str):
        check_choice("writer", chosen, WRITERS)
    elif chosen is not None and not isinstance(chosen, Writer):
        names = ", ".join(f"'{name}'" for name in WRITERS)
        raise TypeError(
            f"writer is a {type(chosen).__name__}; give one of {names}, or an object with image, number and close "
            "(a SummaryWriter: TensorBoardWriter(it))"
        )


def _whichever(folder: Path) -> Writer:
    # a run can only be active in a package that is imported
    if getattr(sys.modules.get("wandb"), "run", None) is not None:
        return WandbWriter()
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None and mlflow.active_run() is not None:
        return MlflowWriter()
    try:
        return TensorBoardWriter(folder)
    except ImportError:  # also a TensorBoard that does not fit this PyTorch
        return FolderWriter(folder)
