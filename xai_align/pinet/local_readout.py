"""The local readout as a module that can be compiled and exported."""

from __future__ import annotations

from torch import Tensor, nn

from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.head_probe import probe_head
from xai_align.pinet.network.one_position import decompose_by_position


class LocalReadout(nn.Module):
    """Module ``x -> (logits [N, K], cells [N, K, P], bias [K])`` for an affine head that averages positions.

    It uses only the model's own forward operations, so it runs under
    ``inference_mode``, compiles without graph breaks, and can be exported.

    Args:
        model: the network; it is not copied.
        space: a feature space with a split.
        z: example features, of the shape to be used later, on which the head is tested.

    Raises:
        ValueError: the head is not affine, or does not treat all positions alike.

    Example::

        from xai_align.hookspecs import Split

        body, head = nn.Conv2d(3, 8, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        space = FeatureSpace(layer="0", layout="NCHW", split=Split(body, head))
        local = LocalReadout(nn.Sequential(body, head).eval(), space, body(images))
        logits, cells, bias = local(images)  # [2, 5], [2, 5, 900], [5]
    """

    def __init__(self, model: nn.Module, space: FeatureSpace, z: Tensor) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._space = space
        if not probe_head(model, space, z).averages_positions:
            raise ValueError(
                f"the head behind '{space.layer}' is not an affine function of the mean over positions; "
                "use read_out_all_classes, which takes any affine head"
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, contributions of each position to each class, and the bias of each class."""
        assert self._space.split is not None
        z = self._space.split.features(x)
        return self._space.split.head(z), *decompose_by_position(self._space, z)
