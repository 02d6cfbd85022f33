"""Methods without futures, like most of Captum's."""

from __future__ import annotations

from typing import Any


class WithoutFutures:
    """Attribution method whose ``attribute`` returns its result and no ``torch.futures.Future``."""

    def attribute_future(self, *args: Any, **named: Any) -> Any:
        """Raise an error, as Captum's gradient methods do.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}; call attribute")
