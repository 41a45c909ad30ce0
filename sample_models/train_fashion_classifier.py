"""Train the sample model: a small MobileNetV2-style Fashion-MNIST classifier.

    python sample_models/train_fashion_classifier.py [--data DIR] [--out DIR] [--epochs N] [--seed N]

Needs `torch` (CPU), `onnx`, `onnxscript` and `onnxruntime`, and the four IDX files of Fashion-MNIST (Debian:
`apt install dataset-fashion-mnist`). One thread and one seed: the same machine gives the same weights.

Writes into the output folder:

* `fashion_classifier.onnx`: input `image` [N,1,28,28] float32, output `logits` [N,10] float32;
* `fashion_calibration.npz`: `image`, 512 training images without labels;
* `fashion_test.npz`: `image` and `label`, the first 2,000 images of the test set.

Images are stored as the model is fed: `(pixel - 64) / 128`, where a pixel is 0..255. (A power of two as divisor keeps
every value exact in eight bits of mantissa, so that the float32 arrays compress as well as the bytes did.)
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CALIBRATION_IMAGES = 512
TEST_IMAGES = 2000
BATCH = 128

STEM_WIDTH = 16
# (expansion, channels, blocks, stride of the first block): 28x28, then 14x14, then 7x7.
STAGES = ((3, 16, 1, 1), (6, 24, 2, 2), (4, 40, 2, 1), (3, 80, 3, 2), (3, 112, 1, 1))
HEAD_WIDTH = 224

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


class InvertedBottleneck(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1, with a residual where the shapes allow one (arXiv:1801.04381)."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.residual = stride == 1 and channels_in == channels_out
        self.body = nn.Sequential(
            *conv_bn_relu6(channels_in, hidden, kernel=1),
            *conv_bn_relu6(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, H, W] to [N, channels_out, H / stride, W / stride]."""
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class FashionClassifier(nn.Module):
    """MobileNetV2 for 28x28 grey images and ten classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [*conv_bn_relu6(1, STEM_WIDTH, kernel=3)]
        width = STEM_WIDTH
        for expansion, channels, blocks, first_stride in STAGES:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                layers.append(InvertedBottleneck(width, channels, expansion, stride))
                width = channels
        layers += conv_bn_relu6(width, HEAD_WIDTH, kernel=1)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(HEAD_WIDTH, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Map [N, 1, 28, 28] to logits [N, 10]."""
        features = self.pool(self.features(image)).flatten(1)
        logits: Tensor = self.classifier(features)
        return logits


def conv_bn_relu6(
    channels_in: int, channels_out: int, *, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a padded convolution, its batch normalisation and a ReLU6."""
    return [
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU6(),
    ]


def read_split(folder: Path, prefix: str) -> tuple[Images, Labels]:
    """Read one split from its two gzipped IDX files: images [N,1,28,28] as the model is fed, and labels [N]."""
    with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return (pixels.astype(np.float32) - 64) / 128, labels


def batches(images: Tensor, labels: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of shuffled batches; each image is flipped with chance 1/2 and shifted by up to 2 pixels."""
    background = float(images.min())
    padded = functional.pad(images, (2, 2, 2, 2), value=background)
    order = torch.randperm(len(images), generator=generator)
    for start in range(0, len(order) - BATCH + 1, BATCH):
        chosen = order[start : start + BATCH]
        top, left = torch.randint(0, 5, (2, BATCH, 1, 1), generator=generator)
        rows = top + torch.arange(28).view(1, 28, 1)
        columns = left + torch.arange(28).view(1, 1, 28)
        flipped = torch.rand((BATCH, 1, 1), generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(2), columns)
        crops = padded[chosen.view(-1, 1, 1), 0, rows, columns].unsqueeze(1)
        yield crops.to(memory_format=torch.channels_last), labels[chosen]


def train(images: Images, labels: Labels, *, epochs: int, seed: int) -> FashionClassifier:
    """Train from scratch: AdamW, one-cycle learning rate, label smoothing."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = FashionClassifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=6e-3, epochs=epochs, steps_per_epoch=len(images) // BATCH, pct_start=0.25
    )
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for epoch in range(epochs):
        started = time.perf_counter()
        total = 0.0
        for batch, target in batches(x, y, generator):
            loss = functional.cross_entropy(model(batch), target, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{epochs}: loss {total / (len(images) // BATCH):.4f}, {seconds:.0f} s", flush=True)
    return model.eval()


def export(model: nn.Module, path: Path, *, size: int, outputs: tuple[str, ...], text: str) -> None:
    """Write a model of one ``image`` as ONNX: opset 18, IR version 10 at most, free batch size, nothing but what a
    runtime needs.

    Args:
        model: what to write.
        path: where to.
        size: side of the square image.
        outputs: names of the outputs, in order.
        text: the file's description.
    """
    program = torch.onnx.export(
        model.to(memory_format=torch.contiguous_format),
        (torch.zeros(2, 1, size, size),),
        dynamo=True,
        input_names=["image"],
        output_names=list(outputs),
        opset_version=18,
        dynamic_shapes={"image": {0: torch.export.Dim("N")}},
    )
    assert program is not None
    proto = program.model_proto
    proto.ir_version = min(proto.ir_version, 10)
    proto.doc_string = text
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces with paths of the machine that exported it
    for value in proto.graph.value_info:
        del value.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def accuracy(path: Path, images: Images, labels: Labels) -> float:
    """Share of images that the ONNX file classifies right, with onnxruntime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"image": images[i : i + 500]})[0].argmax(1) for i in range(0, len(images), 500)]
    return float((np.concatenate(parts) == labels).mean())


def main() -> None:
    """Train, export, and write the data that goes with the model."""
    parser = argparse.ArgumentParser(description="Train the Fashion-MNIST sample model.")
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of the gzipped IDX files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the three files go")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)

    images, labels = read_split(options.data, "train")
    test_images, test_labels = read_split(options.data, "t10k")
    model = train(images, labels, epochs=options.epochs, seed=options.seed)
    parameters = sum(p.numel() for p in model.parameters())

    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "fashion_classifier.onnx"
    text = "Fashion-MNIST classifier, MobileNetV2 style; image = (pixel - 64) / 128"
    export(model, path, size=28, outputs=("logits",), text=text)
    picked = np.sort(np.random.default_rng(options.seed).choice(len(images), CALIBRATION_IMAGES, replace=False))
    np.savez_compressed(options.out / "fashion_calibration.npz", image=images[picked])
    subset_images, subset_labels = test_images[:TEST_IMAGES], test_labels[:TEST_IMAGES]
    np.savez_compressed(options.out / "fashion_test.npz", image=subset_images, label=subset_labels)

    print(f"{parameters} parameters")
    print(f"accuracy on all {len(test_labels)} test images: {accuracy(path, test_images, test_labels):.4f}")
    print(f"accuracy on the first {TEST_IMAGES}: {accuracy(path, subset_images, subset_labels):.4f}")
    for name in ("fashion_classifier.onnx", "fashion_calibration.npz", "fashion_test.npz"):
        data = (options.out / name).read_bytes()
        print(f"{hashlib.sha256(data).hexdigest()}  {name} ({len(data)} bytes)")


if __name__ == "__main__":
    main()
