"""What captum_align gives to xai-align: the exact readout by name, and Captum's own methods as peers."""

from __future__ import annotations

from typing import Any

from xai_align.hookspecs import AttributionSpec, hookimpl


def _build_pinet(model: Any, **options: Any) -> Any:
    from captum_align.pinet_attribution import PiNetAttribution

    return PiNetAttribution(model, **options)


@hookimpl
def xai_align_attributions() -> list[AttributionSpec]:
    """``pinet`` and Captum's methods. Captum is imported when one is built."""
    return [
        AttributionSpec(name="pinet", build=_build_pinet, summary="exact readout: contributions that sum to the answer"),
    ]
