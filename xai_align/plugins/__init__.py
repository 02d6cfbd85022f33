"""Registry of plugins: methods, metrics and training recipes by name, and hooks for models.

Nothing is loaded before the first call. Then every entry point of the group ``xai_align`` is imported on its own
(``loading``); what the plugins list is collected by name (``specs_by_name``), and questions about a model go to one
plugin after the other until one answers (``models``). A plugin that raises, or returns anything but the contract's
records, is named in a :class:`PluginWarning` and skipped. Two environment variables control this:
``XAI_ALIGN_DISABLED_PLUGINS`` (names of entry points, separated by commas, that are never imported) and
``XAI_ALIGN_STRICT`` (``1`` raises :class:`PluginError` instead of warning).
"""

from xai_align.plugins.model_options import ModelOptions
from xai_align.plugins.models import (
    REFERENCE_FORMS,
    classifier,
    encoder,
    feature_space,
    load_model,
    second_look,
    stages,
)
from xai_align.plugins.plugin import PluginRecord
from xai_align.plugins.plugin_problems import PluginError, PluginWarning
from xai_align.plugins.registry import get_plugin_manager, reset_plugins
from xai_align.plugins.specs_by_name import (
    attribution_method,
    attribution_methods,
    default_method,
    metric,
    metrics,
    origin,
    plugin_table,
    training_recipe,
    training_recipes,
)

__all__ = [
    "REFERENCE_FORMS",
    "ModelOptions",
    "PluginError",
    "PluginRecord",
    "PluginWarning",
    "attribution_method",
    "attribution_methods",
    "classifier",
    "default_method",
    "encoder",
    "feature_space",
    "get_plugin_manager",
    "load_model",
    "metric",
    "metrics",
    "origin",
    "plugin_table",
    "reset_plugins",
    "second_look",
    "stages",
    "training_recipe",
    "training_recipes",
]
