"""The backbone of a saved classifier, described in its file so that the architecture can be rebuilt.

A plain name of timm or torchvision is an architecture, and weights that the user named with it are replaced anyway. A
model of another source has a configuration, which is written into the folder. Code that a reference names runs
again only if the reader trusts the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xai_align import plugins
from xai_align._tools.files.fields import listed, number, record, whole
from xai_align._tools.files.inside_folder import file_inside
from xai_align._tools.files.name_part import name_part
from xai_align._tools.files.plain_json import in_one_clause
from xai_align._tools.files.references import check_reference_in_file, is_code, reading
from xai_align._tools.files.size_limit import no_larger_than
from xai_align._tools.files.whole_file import write_whole
from xai_align._tools.logits import LogitsOf
from xai_align._tools.random_state import kept_random_state
from xai_align.hookspecs import LoadedModel

#: Folder, inside that of the fit, of a backbone's configuration.
FOLDER = "backbone"
#: Fields of a header beside the reference.
INPUT = record(
    {},
    {
        "in_chans": whole(1, 65536),
        "img_size": listed(whole(1, 65536), 2, 2),
        "mean": listed(number(), 1, 65536),
        "std": listed(number(), 1, 65536),
    },
)
IMAGE = listed(whole(1, 65536), 3, 3)
#: Sources whose names are architectures, and that of models with a configuration that is only read.
_ARCHITECTURES = ("timm:", "torchvision:")
_PLAIN = re.compile(r"torchvision:[A-Za-z0-9_]+")
_CONFIGURED = f"hf:{FOLDER}"
_TIMM_SOURCES = ("timm:hf-hub:", "timm:local-dir:", "timm:hf_hub:")


@dataclass(frozen=True, kw_only=True)
class SavedBackbone:
    """Saved data of a backbone.

    Attributes:
        reference: of the architecture.
        image: channels, rows and columns of the images.
        options: of the input, as :class:`~xai_align.plugins.ModelOptions` takes them, where not the architecture's own.
        files: texts of the configuration's files by name; none where the reference alone is enough.
    """

    reference: str
    image: tuple[int, int, int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_data(self) -> bool:
        """Whether it is an architecture of transformers or torchvision, by names and numbers alone."""
        return self.reference == _CONFIGURED or bool(_PLAIN.fullmatch(self.reference))

    @property
    def needs_trust(self) -> bool:
        """Whether a file with this backbone is loaded only if the user trusts it."""
        return not self.is_data and is_code(self.reference)

    def header(self) -> dict[str, Any]:
        """Return the fields of a file's header, in JSON types."""
        fields: dict[str, Any] = {"backbone": self.reference}
        if self.image is not None:
            fields["image"] = list(self.image)
        if self.options:
            fields["input"] = {name: list(v) if isinstance(v, tuple) else v for name, v in self.options.items()}
        return fields

    def write_files(self, folder: Path) -> None:
        """Write the configuration's files, if there are any, into a folder below ``folder``."""
        for name, text in self.files.items():
            (folder / FOLDER).mkdir(parents=True, exist_ok=True)
            write_whole(folder / FOLDER / name, text)


def saved_backbone(
    backbone: str, loaded: LoadedModel, classifier: nn.Module, classes: int, picture: Any
) -> tuple[SavedBackbone, list[str]]:
    """Return the record of a backbone to save, tried before anything is trained, and notes for the user.

    Args:
        backbone: the reference that the model was loaded by.
        loaded: the model.
        classifier: the network with a head for other classes, see :func:`with_classes`.
        classes: their number.
        picture: one of the images, as the preprocessing takes it.

    Raises:
        ValueError: the architecture can't be made again from what a folder may say; the message says what to do.
    """
    prepared = loaded.preprocess(picture)
    channels, rows, columns = prepared.shape[-3:]
    known = getattr(classifier, "align_backbone", None)
    if isinstance(known, SavedBackbone):  # align:FOLDER
        return known, []
    image = (channels, rows, columns)
    if loaded.configuration is not None:
        prefix = backbone.partition(":")[0]
        files = {_file_name(name): text for name, text in loaded.configuration.items()}
        return SavedBackbone(reference=f"{prefix}:{FOLDER}", image=image, files=files), []
    if not backbone.startswith(_ARCHITECTURES):
        return SavedBackbone(reference=backbone, image=image), []
    reference = _architecture(backbone, loaded.model)
    shapes, failed = _shapes(classifier), ""
    same_network: SavedBackbone | None = None
    for options in _options(prepared, loaded):
        tried = SavedBackbone(reference=reference, image=image, options=options)
        try:
            with kept_random_state():
                again = _loaded(tried, without_weights(reference))
                differs = _shapes(with_classes(again, classes, image)) != shapes
        except (ValueError, RuntimeError) as error:
            failed = f" ({in_one_clause(error, length=300)})"
            continue
        if differs:
            continue
        same_network = same_network or tried
        found = again.preprocess(picture)
        if found.shape == prepared.shape and torch.allclose(found, prepared, atol=1e-5):
            return tried, []
    if same_network is None:
        raise ValueError(
            f"the backbone '{backbone}' is another network than {reference} without further options, so it could not "
            f"be rebuilt from the folder of results{failed}; write a function that returns it, and give that: "
            "package.module:function"
        )
    return same_network, [
        f"'{backbone}' preprocesses pictures differently than {reference} does, and align:FOLDER will preprocess them "
        "like the latter; give it inputs that you preprocessed yourself"
    ]


def with_classes(loaded: LoadedModel, count: int, image: tuple[int, int, int] | None) -> nn.Module:
    """Return a copy of a loaded model's network with a head for ``count`` classes.

    Args:
        loaded: the model.
        count: the number of classes.
        image: channels, rows and columns of an image; None: not known, for old files.

    Raises:
        ValueError: no plugin knows such models, and no linear layer makes the logits.
    """
    model = loaded.model if loaded.output_field is None else LogitsOf(loaded.model, loaded.output_field)
    return plugins.classifier(model, count, None if image is None else torch.zeros(1, *image))


def read_backbone(fields: Mapping[str, Any], folder: Path) -> SavedBackbone:
    """Return the backbone of a checked header, in the folder of its file.

    Raises:
        ValueError: a file of its configuration is not inside the folder.
    """
    reference, image = fields["backbone"], fields.get("image")
    files = {}
    if reference.endswith(f":{FOLDER}") and (folder / FOLDER).is_dir():
        for path in sorted((folder / FOLDER).iterdir()):
            if path.suffix == ".json":
                files[path.name] = file_inside(folder, f"{FOLDER}/{path.name}").read_text("utf-8")
    size: Any = None if image is None else tuple(image)
    return SavedBackbone(reference=reference, image=size, options=fields.get("input", {}), files=files)


def rebuilt(
    backbone: SavedBackbone, file: Path, classes: int, tensors: Mapping[str, Tensor], *, trust: bool
) -> tuple[LoadedModel, Any]:
    """Make the backbone that a file names, and a copy of it with a head for the file's classes, both untrained.

    Args:
        backbone: from :func:`read_backbone`.
        file: the classifier's file.
        classes: their number.
        tensors: the file's weights; an architecture much larger than they are is refused.
        trust: whether the file may name code.

    Raises:
        ValueError: the file may not name it, or it can't be made.
    """
    reference = without_weights(backbone.reference)
    if backbone.reference == _CONFIGURED and not backbone.files:
        raise ValueError(f"'{file.parent / FOLDER}' lacks the configuration of the backbone; copy the whole folder")
    data = backbone.is_data
    if not data:
        check_reference_in_file(reference.removesuffix("@random"), file, trust=trust)
        data = reference.startswith("timm:")
    if backbone.files:
        reference = f"{backbone.reference.partition(':')[0]}:{file.parent / FOLDER}@random"
    try:
        with ExitStack() as stack:
            stack.enter_context(reading(file.parent))
            stack.enter_context(kept_random_state())  # initial weights of layers are random
            if data:
                stack.enter_context(no_larger_than(tensors, str(file)))
            loaded = _loaded(backbone, reference)
            return loaded, with_classes(loaded, classes, backbone.image)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"'{file}' names a backbone that can't be loaded: {in_one_clause(error, length=600)}"
        ) from error


def without_weights(backbone: str) -> str:
    """Return a reference to the same architecture without pretrained weights, which would be replaced anyway."""
    return f"{backbone.partition('@')[0]}@random" if backbone.startswith(_ARCHITECTURES) else backbone


def _loaded(backbone: SavedBackbone, reference: str) -> LoadedModel:
    options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in backbone.options.items()}
    return plugins.load_model(reference, options=plugins.ModelOptions(**options) if options else None)


def _architecture(backbone: str, model: Any) -> str:
    """Return the reference of an architecture by its plain name.

    Raises:
        ValueError: its name is not known.
    """
    if not backbone.startswith(_TIMM_SOURCES):
        return backbone.partition("@")[0]
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if not name:
        raise ValueError(
            f"the architecture of '{backbone}' has no name in timm, so it could not be rebuilt from the folder of "
            "results; write a function that returns it, and give that: package.module:function"
        )
    return f"timm:{name}"


def _options(prepared: Tensor, loaded: LoadedModel) -> Iterator[dict[str, Any]]:
    """Yield options of the input from none to all, to take the fewest that are enough."""
    channels, rows, columns = prepared.shape[-3:]
    scale: dict[str, Any] = {} if loaded.scale is None else dict(zip(("mean", "std"), loaded.scale, strict=True))
    size = {"img_size": (rows, columns)}
    for more in ({}, size, scale, size | scale):
        yield ({"in_chans": channels} if channels != 3 else {}) | more


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _file_name(name: str) -> str:
    """Return the name of a configuration's file, as it is if it is plain."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+\.json", name) else f"{name_part(name)}.json"
