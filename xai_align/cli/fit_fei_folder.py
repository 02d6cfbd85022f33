"""Fit an amortised explainer on a folder of photographs: the work of ``xai-align fit-fei``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from xai_align._tools.devices import usable_device
from xai_align._tools.files.writable_folder import check_folder_is_writable
from xai_align._tools.random_state import fixed_random_state
from xai_align.cli.first_pass import first_output
from xai_align.cli.terminal import print_warnings
from xai_align.data.image_folder import LabelledImage, check_images
from xai_align.data.images import expand_paths, open_image
from xai_align.data.prepared_image import prepared_picture
from xai_align.data.value_range import ValueRange, check_range
from xai_align.fei.amortised.explainer import AmortisedExplainer
from xai_align.fei.amortised.explainer_file import load_explainer, save_explainer
from xai_align.fei.amortised.fingerprint import OtherNetwork
from xai_align.fei.amortised.fit import FEIFit, fit_fei
from xai_align.fei.amortised.reference import PREFIX, SEED
from xai_align.plugins import ModelOptions, load_model

#: Suffix of an explainer's file.
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Photographs(Dataset[Tensor]):
    """Image files as a model's inputs ``[C, H, W]``."""

    paths: Sequence[Path]
    preprocess: Callable[[Any], Tensor]
    value_range: ValueRange | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        """Open and preprocess an image."""
        path = self.paths[number]
        return prepared_picture(open_image(path, self.value_range), path, self.preprocess)


def run_folder_of(out: Path) -> Path:
    """Return the folder of the run that makes the file ``out``: ``lite0.safetensors`` is made in ``lite0-fit``.

    Raises:
        ValueError: it is a folder, or has another suffix.
    """
    if out.suffix != SUFFIX or out.is_dir():
        example = out.stem.removeprefix(SUFFIX) or "explainer"
        raise ValueError(f"--out is '{out}'; give the file of the explainer, such as {example}{SUFFIX}")
    return out.with_name(f"{out.stem}-fit")


def fit_fei_folder(
    model: str,
    folders: Sequence[Path],
    *,
    out: Path,
    recursive: bool = True,
    device: str | None = None,
    trust: bool = False,
    value_range: ValueRange | None = None,
    model_options: ModelOptions | None = None,
    **options: Any,
) -> FEIFit:
    """Fit an explainer to a model on all images in some folders, and write it to a file.

    Args:
        model: the reference of the model.
        folders: folders of images, or image files.
        out: the file; checkpoints and metrics go to :func:`run_folder_of` it, and a repeated call resumes from these.
        recursive: whether sub-folders are searched, too.
        device: the device; None: a GPU if there is one.
        trust: whether a model's folder may name code, which is then run; see :func:`~xai_align.plugins.load_model`.
        value_range: the pixel values that are black and white; None: by each file.
        model_options: size, channels and scale of the model's input.
        options: for :func:`~xai_align.fei.fit_fei`.

    Raises:
        ValueError: the images, the model or an option can't be used, or ``out`` is another file; the message has the
            reason.
        OSError: the folder of ``out`` cannot be written to.
    """
    run = run_folder_of(out)
    check_folder_is_writable(run)
    there = _explainer_at(out)
    if model.startswith(PREFIX):
        raise ValueError(
            f"--model is '{model}', an explainer that was fitted already; give the network's own reference"
        )
    where = usable_device(device)
    value_range = check_range(value_range)
    paths = expand_paths([str(one) for one in folders], recursive=recursive)
    check_images([LabelledImage(path, 0) for path in paths], value_range)
    stated = model_options or ModelOptions()
    with fixed_random_state(SEED):  # a resumed run and fei:FILE get the same random weights
        loaded = load_model(model, trust=trust, options=stated)
    print_warnings(loaded)
    loaded.model.to(where)
    if there is not None:
        _check_same_network(there, loaded.model, out)
    photographs = Photographs(paths, loaded.preprocess, value_range)
    first_output(loaded.model, photographs[0][None].to(where), paths[0])
    fit = fit_fei(
        loaded.model,
        photographs,
        normalization=loaded.scale,
        out=run,
        loaded_by={"reference": model, **_stated(stated)},
        **options,
    )
    save_explainer(fit, out)
    return fit


def _explainer_at(out: Path) -> AmortisedExplainer | None:
    """Return the explainer in the file ``out``; None if there is no such file.

    Raises:
        ValueError: the file is something else, such as the model's own weights.
    """
    if not out.exists():
        return None
    try:
        return load_explainer(out)
    except (OSError, ValueError):
        raise ValueError(
            f"--out is '{out}', an existing file that is not an amortised explainer and would be replaced; give "
            "another name, or remove it"
        ) from None


def _check_same_network(there: AmortisedExplainer, model: nn.Module, out: Path) -> None:
    """Raise if the explainer in the file ``out`` is another network's.

    Raises:
        ValueError: it is.
    """
    try:
        there.fingerprint.check_model(model)
    except OtherNetwork:
        raise ValueError(
            f"--out is '{out}', an explainer of another network ({there.fingerprint.network}), which would be "
            "replaced; give another name, or remove it"
        ) from None


def _stated(options: ModelOptions) -> dict[str, Any]:
    """Return what was stated about the model's input, in JSON types."""
    of_input = options.of_input
    found = {"img_size": of_input.img_size, "mean": of_input.mean, "std": of_input.std}
    return {"in_chans": of_input.in_chans, **{name: None if one is None else list(one) for name, one in found.items()}}
