"""A Hugging Face Space of xai-align: put this folder's files into a Space of the SDK Gradio.

The model is the variable XAI_ALIGN_MODEL of the Space, or EfficientNet-Lite0 from the package index. Locally:
``python examples/space/app.py``.
"""

from __future__ import annotations

import os

from xai_align.cli.space import space

demo = space(os.environ.get("XAI_ALIGN_MODEL", "timm_align.efficientnet_lite0:load"))

if __name__ == "__main__":
    demo.launch()
