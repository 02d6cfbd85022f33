"""Options of timm that an encoder's file may set, with their types and ranges.

Only options that shape the network are listed. Options that name a source of weights or code (``pretrained``,
``pretrained_cfg``, ``pretrained_cfg_overlay``, ``checkpoint_path``, ``cache_dir``, names on a hub, addresses) are not,
and never may be: timm would fetch or unpickle their target.
"""

from __future__ import annotations

from typing import Any

from xai_align.adapter_tools import fields

_SIDE = fields.whole(1, 2048)
_SIZE = fields.either(_SIDE, fields.listed(_SIDE, 2, 2))
_WIDTH = fields.whole(1, 65536)
_RATE = fields.either(fields.nothing, fields.number(0, 1))

#: Options of ``timm.create_model``, for the architectures that take them.
CREATE = {
    "in_chans": _WIDTH,
    "global_pool": fields.text(r"[a-z]{0,20}", expected="a name of timm's pooling, or ''"),
    "output_stride": fields.one_of(4, 8, 16, 32),
    "drop_rate": _RATE,
    "drop_path_rate": _RATE,
    "drop_block_rate": _RATE,
    "proj_drop_rate": _RATE,
    "attn_drop_rate": _RATE,
    "pos_drop_rate": _RATE,
    "patch_drop_rate": _RATE,
    "img_size": fields.either(fields.nothing, _SIZE),
    "patch_size": fields.either(fields.whole(1, 256), fields.listed(fields.whole(1, 256), 2, 2)),
    "window_size": fields.either(fields.whole(1, 256), fields.listed(fields.whole(1, 256), 2, 2)),
    "embed_dim": _WIDTH,
    "depth": fields.whole(1, 256),
    "num_heads": fields.whole(1, 1024),
    "mlp_ratio": fields.number(0.01, 64),
    "init_values": fields.either(fields.nothing, fields.number()),
    "reg_tokens": fields.whole(0, 256),
    "class_token": fields.flag(),
    "no_embed_class": fields.flag(),
    "qkv_bias": fields.flag(),
    "qk_norm": fields.flag(),
    "pre_norm": fields.flag(),
    "dynamic_img_size": fields.flag(),
    "dynamic_img_pad": fields.flag(),
    "strict_img_size": fields.flag(),
    "scriptable": fields.either(fields.nothing, fields.flag()),
    "exportable": fields.either(fields.nothing, fields.flag()),
}
#: Options of :class:`~timm_align.second_look.TimmEncoder`.
ENCODER = fields.record(
    {
        "indices": fields.listed(fields.whole(-1000, 1000), 1, 1000),
        "image_size": fields.listed(_SIDE, 2, 2),
        "create": fields.record({"num_classes": fields.whole(0, 1_000_000)}, CREATE),
    }
)


def check_saved_options(options: dict[str, Any]) -> None:
    """Raise if options from a file are not among those that a file may set.

    Raises:
        ValueError: an option is not allowed, or its value is out of range; the message names it.

    Example::

        >>> saved = {"indices": [1], "image_size": [64, 64], "create": {"num_classes": 2, "cache_dir": ""}}
        >>> check_saved_options(saved)
        Traceback (most recent call last):
        ...
        ValueError: 'encoder.options' is not what it should be: create.cache_dir is not a name that is allowed in a file
    """
    fields.check_fields(options, ENCODER, "encoder.options")
