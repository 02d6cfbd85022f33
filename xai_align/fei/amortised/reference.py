"""Reference ``fei:FILE``: the network that an amortised explainer was fitted to, with the explainer.

The file says how its network was loaded. It is data: a network of timm or torchvision is loaded as named, and further
files are read and code runs only if the reader trusts the file. The network that comes back is compared with the
fingerprint when it is explained, so a file cannot bring a network that it was not fitted to.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from xai_align import plugins
from xai_align._tools.files.fields import shown
from xai_align._tools.files.plain_json import in_one_clause
from xai_align._tools.files.references import TRUST, reading
from xai_align._tools.random_state import fixed_random_state
from xai_align.features.unwrapping import network_of
from xai_align.fei.amortised.explainer_file import load_explainer
from xai_align.hookspecs import LoadedModel

#: Prefix of the reference.
PREFIX = "fei:"
#: Seed under which a network is loaded, to be fitted to and again: random weights (``timm:NAME@random``) are the same.
SEED = 0
_PLAIN = re.compile(r"(timm|torchvision):[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?(@random)?")


def load_explained(reference: str, *, trust: bool = False) -> LoadedModel | None:
    """Load the network of a reference ``fei:FILE``; return None for other references.

    The method ``fei-amortised`` finds its explainer.

    Args:
        reference: the user's reference.
        trust: whether the file may name other references than plain names of timm and torchvision: weights in files,
            folders, and ``package.module:factory``, which is imported and called.

    Raises:
        ValueError: there is no such file, it can't be used, or its network can't be loaded; the message says why.
    """
    if not reference.startswith(PREFIX):
        return None
    path = Path(reference.removeprefix(PREFIX)).expanduser()
    try:
        explainer = load_explainer(path)
    except FileNotFoundError as error:
        raise ValueError(f"{error}; write fei:FILE with the file that `xai-align fit-fei` wrote") from None
    if explainer.model is None:
        raise ValueError(
            f"'{path}' does not say how its network is loaded: it was fitted in Python to a module; explain with "
            "AmortisedFEI(model, FILE) there, or fit it with `xai-align fit-fei`"
        )
    named = dict(explainer.model)
    wanted = named.pop("reference")
    _check_reference(wanted, path, trust=trust)
    given = {name: value for name, value in named.items() if value is not None}
    try:
        with reading(path), fixed_random_state(SEED):
            loaded = plugins.load_model(wanted, trust=trust, options=plugins.ModelOptions(**given))
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"'{path}' names a network that can't be loaded: {in_one_clause(error, length=600)}"
        ) from error
    explainer.fingerprint.check_normalization(loaded.scale)
    loaded.model.fei_explainer = str(path.resolve())  # type: ignore[assignment]
    return loaded


def _check_reference(wanted: str, path: Path, *, trust: bool) -> None:
    """Raise if a file may not name this reference.

    Raises:
        ValueError: it is not a plain name of timm or torchvision and the file is not trusted, or another ``fei:`` file.
    """
    if wanted.strip().lower().startswith(PREFIX):
        raise ValueError(f"'{path}' names {shown(wanted)}, and an explainer's file cannot refer to another one")
    if not trust and needs_trust(wanted):
        raise ValueError(
            f"'{path}' names {shown(wanted)}, and only plain names of timm and torchvision are loaded from a file "
            f"unless you trust it, as other references read further files or run code: {TRUST}"
        )


def needs_trust(reference: str) -> bool:
    """Return whether a file with this reference is loaded only if the user trusts it.

    Example::

        >>> needs_trust("timm:resnet18"), needs_trust("timm:resnet18@weights.safetensors")
        (False, True)
    """
    return not _PLAIN.fullmatch(reference)


def explainer_of(model: nn.Module) -> str | None:
    """Return the explainer's file of a model from ``fei:FILE``, also inside a ``QuestionModel``."""
    found = getattr(network_of(model)[0], "fei_explainer", None)
    return found if isinstance(found, str) else None
