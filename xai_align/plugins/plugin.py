"""State of one plugin, and its line in the plugin table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "disabled", "failed"]


@dataclass
class Plugin:
    """State of one entry point while it is loaded and called."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    status: Status = "ok"
    reasons: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Name, distribution and version, as shown in messages."""
        return f"'{self.name}' ({self.distribution} {self.version})"

    def record(self) -> PluginRecord:
        """Return its line of the plugin table as it is now."""
        return PluginRecord(
            name=self.name,
            distribution=self.distribution,
            version=self.version,
            hooks=self.hooks,
            status=self.status,
            reason="; ".join(self.reasons),
        )


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """One line of the plugin table.

    Attributes:
        name: the name of the entry point.
        distribution: the installed distribution that it comes from.
        version: the version of that distribution.
        hooks: the hooks it implements; empty for a plugin that is not loaded.
        status: ``failed`` if it could not be loaded or one of its lists could not be read.
        reason: why it is disabled or failed, or which parts of it are not used; else empty.

    Example::

        [record.name for record in plugin_table() if record.status != "ok"]  # plugins that are not in use
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    status: Status
    reason: str
