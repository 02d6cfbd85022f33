"""Saving and loading a PiNet: ``config.json`` and ``model.safetensors`` in a folder.

The weights file also holds the config and a digest of its tensors, so that
mismatched config and weights, and damaged weights, are detected. Each file is
written completely or not at all. ``saved_config.py`` lists the values a config
may hold; nothing in it is imported, unpickled or fetched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from xai_align import plugins
from xai_align._tools.files.fields import check_fields, shown
from xai_align._tools.files.hub import push
from xai_align._tools.files.inside_folder import file_inside
from xai_align._tools.files.plain_json import in_one_clause, parse_json, read_json
from xai_align._tools.files.references import check_reference_in_file, reading
from xai_align._tools.files.size_limit import no_larger_than
from xai_align._tools.files.tensor_file import check_weights, read_tensor_file, write_tensor_file
from xai_align._tools.files.whole_file import write_whole
from xai_align._tools.version import __version__
from xai_align.pinet.network.saved_config import CONFIG, FORMAT
from xai_align.pinet.network.second_look_head import SecondLookHead

#: The class of the model, a PiNet or one of its subclasses.
M = TypeVar("M", bound=nn.Module)
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
#: Folder of the saved PiNet in the folder that a fit writes to.
MODEL_FOLDER = "model"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def save(model: Any, folder: str | os.PathLike[str]) -> Path:
    """Write a PiNet to a folder, creating it if needed.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    text = json.dumps(config_of(model), indent=2)
    about = {"format": "pt", "xai_align_config": text, "xai_align_sha256": _digest(state)}
    write_tensor_file(folder / WEIGHTS_FILE, state, about)
    write_whole(folder / CONFIG_FILE, text + "\n")
    return folder


_CARD = """# A pseudo-linear network (PiNet)

The logits are sums of the contributions of image positions and a bias, by construction.

```python
from xai_align import PiNet

pinet = PiNet.from_pretrained("{name}")
look = pinet.explain(images)  # look.maps.sum((2, 3)) + look.bias equals look.logits
```"""


def push_to_hub(model: Any, name: str, *, private: bool, token: str | None) -> str:
    """Upload a saved PiNet to the hub; return the repository's address."""
    card = _CARD.format(name=name)
    return push(lambda folder: save(model, folder), name, card=card, tags=("pinet",), private=private, token=token)


def config_of(model: Any) -> dict[str, Any]:
    """Return the plain values that rebuild a PiNet."""
    return {
        "format": FORMAT,
        "model": "PiNet",
        "version": __version__,
        "encoder": {
            "reference": getattr(model.encoder, "reference", None),
            "options": getattr(model.encoder, "options", {}),
        },
        "channels": list(model.head.channels),
        "head": model.head.options,
        "class_names": list(model.class_names),
    }


def load(
    make: Callable[[nn.Module, SecondLookHead], M],
    source: str | os.PathLike[str],
    *,
    encoder: nn.Module | None,
    decoder: nn.Module | None,
    trust: bool = False,
) -> M:
    """Build the saved model and load its weights; in eval mode, on the CPU.

    Args:
        make: the model's class, called with encoder and head.
        source: a folder, or a name on the hub.
        encoder: replaces the encoder that the folder names.
        decoder: replaces a custom decoder.
        trust: whether the folder may name code of other packages.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no saved PiNet.
        ValueError: the folder can't be used; the message names the reason and the remedy.
    """
    config_file, weights_file = _files(source)
    config = _read_config(config_file)
    state = _read_weights(weights_file, config)
    with reading(config_file.parent):
        model = _build(make, config, config_file, state, encoder, decoder, trust)
    check_weights(model, state, str(weights_file))
    model.load_state_dict(dict(state), assign=True)  # keeps their dtype
    model.class_names = tuple(config["class_names"])  # type: ignore[assignment]
    return model.eval()


def _build(
    make: Callable[[nn.Module, SecondLookHead], M],
    config: Mapping[str, Any],
    file: Path,
    state: Mapping[str, Tensor],
    encoder: nn.Module | None,
    decoder: nn.Module | None,
    trust: bool,
) -> M:
    """Return the model, without its weights."""
    from xai_align.pinet.network.frozen_encoder import FrozenEncoder

    saved = config["encoder"]
    options = dict(saved["options"])
    frozen = options.pop("frozen", False)
    if encoder is None:
        encoder = _encoder(saved["reference"], options, file, state, trust)
        if frozen:
            encoder.eval().requires_grad_(False)
    if frozen and not isinstance(encoder, FrozenEncoder):
        encoder = FrozenEncoder(encoder)
    if config["head"]["decoder"] == "custom" and decoder is None:
        raise ValueError(
            f"'{file}' is of a PiNet that was saved with a decoder of its author's; "
            "build that decoder and give it: PiNet.from_pretrained(..., decoder=...)"
        )
    try:
        with no_larger_than(state, str(file)):
            return make(encoder, _head(config, decoder))
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"'{file}' describes no PiNet that can be built ({in_one_clause(error)})") from error


def _encoder(
    reference: str | None, options: dict[str, Any], file: Path, state: Mapping[str, Tensor], trust: bool
) -> nn.Module:
    """Return the encoder that the file names, without its weights."""
    from xai_align.pinet.network.conv_detector import ConvEncoder

    if reference is None:
        raise ValueError(
            f"'{file}' is of a PiNet that was saved with an encoder that no plugin knows (it has no attribute "
            "'reference'); build that encoder and give it: PiNet.from_pretrained(..., encoder=...)"
        )
    check_reference_in_file(reference, file, trust=trust, known=ConvEncoder.reference)
    try:
        with no_larger_than(state, str(file)):
            return plugins.encoder(reference, options)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"'{file}' names an encoder that is not available: {in_one_clause(error, length=600)}"
        ) from error


def _head(config: Mapping[str, Any], decoder: nn.Module | None) -> SecondLookHead:
    from xai_align.pinet.network.initialisation import Start

    head = dict(config["head"])
    if head["decoder"] == "custom":
        head["decoder"] = decoder
    if isinstance(head["size"], list):
        head["size"] = tuple(head["size"])
    head["start"] = Start(**head["start"])
    return SecondLookHead(config["channels"], **head)


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict) or config.get("model") != "PiNet":
        raise ValueError(f'\'{path}\' is the config of something else; a saved PiNet\'s says "model": "PiNet"')
    if config.get("format") != FORMAT:
        found, version = shown(config.get("format")), shown(config.get("version"))
        raise ValueError(
            f"'{path}' has format {found} (of xai-align {version}), and this version reads format {FORMAT}; "
            "install that version of xai-align or a newer one"
        )
    check_fields(config, CONFIG, str(path))
    return config


def _read_weights(path: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    about, state = read_tensor_file(path)
    if "xai_align_config" not in about:
        raise ValueError(f"'{path}' was not written by PiNet.save_pretrained: it has no config with its weights")
    if _digest(state) != about.get("xai_align_sha256"):
        raise ValueError(f"the numbers in '{path}' are damaged (their digest is another); copy or fetch it again")
    different = _differences(parse_json(about["xai_align_config"], str(path)), config)
    if different:
        raise ValueError(
            f"'{path}' was saved with another config than the {CONFIG_FILE} beside it: {'; '.join(different[:4])}; "
            "put the two files of one model together"
        )
    return state


def _differences(weights: Any, config: Any, name: str = "") -> list[str]:
    """Return the differences of two configs, one line per value, ignoring versions."""
    if isinstance(weights, dict) and isinstance(config, dict):
        keys = sorted(weights.keys() | config.keys())
        inside = [(key, weights.get(key), config.get(key)) for key in keys if (name, key) != ("", "version")]
        return [line for key, a, b in inside for line in _differences(a, b, f"{name}.{key}".strip("."))]
    same = type(weights) is type(config) and weights == config
    return [] if same else [f"{name or 'it'} is {shown(weights)} with the weights, {shown(config)} in the config"]


def _files(source: str | os.PathLike[str]) -> tuple[Path, Path]:
    folder = Path(source)
    if os.path.isdir(folder):
        if not (folder / CONFIG_FILE).is_file() and (folder / MODEL_FOLDER / CONFIG_FILE).is_file():
            folder /= MODEL_FOLDER  # the folder of a fit
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"'{folder}' holds no saved PiNet: there is no {name} in it")
        return file_inside(folder, CONFIG_FILE), file_inside(folder, WEIGHTS_FILE)
    if not _HUB_NAME.fullmatch(str(source)):
        raise FileNotFoundError(f"there is no folder '{source}', nor is that a name on the hub, 'owner/model'")
    return _from_hub(str(source))


def _from_hub(name: str) -> tuple[Path, Path]:
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(name, CONFIG_FILE)), Path(hf_hub_download(name, WEIGHTS_FILE))
    except ImportError as error:
        raise ValueError(
            f"'{name}' is not a folder, and the hub needs a package: pip install huggingface_hub"
        ) from error
    except Exception as error:  # the client has many errors: no network, no such model, no access
        raise ValueError(
            f"'{name}' is not a folder here, and it could not be fetched from the hub ({type(error).__name__}: "
            f"{in_one_clause(error)}); give the path of a folder that save_pretrained wrote"
        ) from error


def _digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of the tensors."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key]
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        row = torch.empty(value.numel(), dtype=value.dtype).copy_(value.reshape(-1))
        digest.update(row.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
