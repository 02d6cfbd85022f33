"""A Grad-CAM script that draws the exact readout instead, with one changed line.

    python examples/gradcam_to_pinet.py cat.jpg cat_explained.png

With the commented line it draws Grad-CAM again.
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from gradcam_align import PiNetCAM as GradCAM  # before: from pytorch_grad_cam import GradCAM
from xai_align.plugins import load_model


def main(photograph: str, drawing: str, reference: str = "timm_align.efficientnet_lite0:load") -> None:
    loaded = load_model(reference)
    model, names = loaded.model, loaded.class_names
    input_tensor = loaded.preprocess(Image.open(photograph).convert("RGB")).unsqueeze(0)
    picture = input_tensor[0].permute(1, 2, 0).numpy() * np.float32(loaded.std) + np.float32(loaded.mean)

    category = int(model(input_tensor).argmax())
    print(f"explaining class {category}", f"({names[category]})" if names else "")

    with GradCAM(model=model, target_layers=[model.bn2]) as cam:
        grayscale_cam = cam(input_tensor=input_tensor, targets=[ClassifierOutputTarget(category)])[0]

    visualization = show_cam_on_image(picture.clip(0, 1), grayscale_cam, use_rgb=True)
    Image.fromarray(visualization).save(drawing)


if __name__ == "__main__":
    main(*sys.argv[1:])
