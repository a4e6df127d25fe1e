"""Classify images with an exported model: onnxruntime, NumPy and Pillow, no PyTorch, no understudy.

    python examples/serve.py runs/dhkd/export/model.onnx image.png ...

Everything that must be known of the model (classes, size and normalisation of its images) stands in the ONNX file.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Classifier:
    """An ONNX file of `understudy export`, float32 or int8, ready to answer."""

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        about = {
            k: json.loads(v)
            for k, v in self.session.get_modelmeta().custom_metadata_map.items()
            if k not in ("model", "task")
        }
        self.several = self.session.get_modelmeta().custom_metadata_map.get("task") == "multilabel"
        self.classes, self.channels = about["classes"], about["channels"]
        self.height, self.width = about["image_size"]
        self.resize = about.get("resize")
        # (image / 255 - mean) / std, a number a channel
        self.mean, self.std = (np.array(about[key], np.float32)[:, None, None] for key in ("mean", "std"))

    def prepare(self, path: str) -> np.ndarray:
        """Returns one image as the model was trained to see it, (channels, height, width) float32."""
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
                image = Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8))
            image = image.convert("RGB" if self.channels == 3 else "L")
        # the shorter side to the model's (or to more), then the centre
        if self.resize or self.height == self.width:
            side, shorter = self.resize or self.height, min(image.size)
            size = tuple(int(side * length / shorter) if length > shorter else side for length in image.size)
        else:
            scale = max(self.height / image.height, self.width / image.width)
            size = (max(self.width, int(scale * image.width)), max(self.height, int(scale * image.height)))
        if size != image.size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = round((size[0] - self.width) / 2), round((size[1] - self.height) / 2)
        image = image.crop((left, top, left + self.width, top + self.height))
        pixels = np.asarray(image, np.float32).reshape(self.height, self.width, self.channels)
        return (pixels.transpose(2, 0, 1) / 255 - self.mean) / self.std

    def __call__(self, paths: list[str]) -> np.ndarray:
        """Returns the probabilities (images, classes) of a batch of any size."""
        (logits,) = self.session.run(["logits"], {"images": np.stack([self.prepare(path) for path in paths])})
        if self.several:  # every class by itself
            return 1 / (1 + np.exp(-logits))
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)


def main(arguments: list[str]) -> None:
    if len(arguments) < 2:
        print(__doc__)
        return
    model, *paths = arguments
    classifier = Classifier(model)
    for path, probabilities in zip(paths, classifier(paths), strict=True):
        best = probabilities.argsort()[::-1][:3]
        print(f"{path}: " + ", ".join(f"{classifier.classes[i]} {100 * probabilities[i]:.1f}%" for i in best))


if __name__ == "__main__":
    main(sys.argv[1:])
