"""``xai-align serve``: explanations in the browser."""

from __future__ import annotations

from typing import Annotated

import typer

from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.cli.shared_options import (
    Device,
    ModelFlags,
    ModelReference,
    TrustCode,
    split_names,
    with_model_flags,
)
from xai_align.cli.terminal import report_errors


@with_model_flags
def serve_command(
    model: ModelReference,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,NAME...]", help="Methods to choose from; `xai-align methods` lists them."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 7860,
    device: Device = None,
    *,
    model_flags: ModelFlags,
    trust_code: TrustCode = False,
) -> None:
    """Serve explanations in the browser.

    Drop a picture, ask why, why not, why this group, and see the page. Needs the extra `serve`.
    """
    from xai_align.cli.space import space

    with report_errors(), typed_on_the_command_line():
        options = model_flags.options()
        methods = split_names(method) if method else None
        app = space(model, methods=methods, device=device, trust=trust_code, options=options)
        app.launch(server_name=host, server_port=port)
