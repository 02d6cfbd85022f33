"""Choice of the device to compute on."""

from __future__ import annotations

import torch


def usable_device(name: str | None) -> torch.device:
    """Return the device of this name; None: a GPU if there is one.

    Raises:
        ValueError: the device is not available, or computes nothing.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the device '{name}' cannot be used: {reason}") from error
    if device.type == "meta":
        raise ValueError(f"the device '{name}' cannot be used: its tensors have no values; name another one")
    return device
