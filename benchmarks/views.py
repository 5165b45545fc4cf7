"""From a stored slice to a normalised view: ours on one core against the PIL reference, lightly and MONAI.

    python benchmarks/views.py [--slices 12] [--store STORE] [--device cuda]

Ours reads a compressed int16 slice of a store; the 8-bit pipelines decode a PNG, as their data are stored; MONAI's
starts from the decoded slice in HU. All make 224 px views of the same recipe (turned, cropped, jittered, blurred,
flipped, with noise), but lightly's, which is MoCo v2's as published. Slices are those of a store, or of a phantom. On a
GPU the second applier makes a batch of views, copy of the slices included. PSNR: crop and resizing alone against
torchvision's antialiased result in float, over the window's width.
"""

import io
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision.transforms as tv
from measure import arguments, compare, ratio, show, start
from monai.transforms import (
    Compose,
    NormalizeIntensity,
    RandFlip,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandRotate,
    RandScaleIntensity,
    RandSpatialCrop,
    Resize,
    ScaleIntensityRange,
)
from PIL import Image
from torchvision.transforms.v2 import functional as tvf

from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.samples.phantom import write_phantom
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.epochs import SampleKey
from medssl_monai.transforms import Crop, DeviceViews, MultiCropViewsd, SparKViewsd, TwoViewsd, resample

LOW, HIGH = -1000.0, 400.0
RECIPES: dict[str, Any] = {
    "moco, byol": TwoViewsd(seed=0, window=[LOW, HIGH], mean=0.25, std=0.25),
    "swav": MultiCropViewsd(seed=0, window=[LOW, HIGH], mean=0.25, std=0.25),
    "spark": SparKViewsd(seed=0, window=[LOW, HIGH], mean=0.25, std=0.25),
}


def phantom_store(folder: Path, slices: int, size: int = 512) -> SliceStore:
    """A store of phantom slices of a scanner's size."""
    write_phantom(folder / "dicom", patients=1, seed=0, size=size, slices=slices)
    build_store([folder / "dicom"], folder / "store", key=b"benchmark", progress=False)
    return SliceStore(folder / "store")


def spread(store: SliceStore, count: int) -> list[dict[str, Any]]:
    """Axial slices of all the store."""
    rows = [row for row in store.select() if row["plane"] == "axial" and min(row["rows"], row["columns"]) >= 300]
    return [rows[i] for i in np.linspace(0, len(rows) - 1, count).astype(int)]


def png_of(pixels: np.ndarray) -> bytes:
    """The slice as 8-bit pipelines keep it: windowed, grey, PNG."""
    unit = np.clip((pixels.astype(np.float32) - LOW) / (HIGH - LOW), 0, 1)
    memory = io.BytesIO()
    Image.fromarray((255 * unit).round().astype(np.uint8)).save(memory, "PNG")
    return memory.getvalue()


def pil_pipeline() -> Callable[[Any], torch.Tensor]:
    """The reference system's views for MoCo and BYOL: torchvision on PIL images of three equal channels.

    Turned, cropped, jittered, blurred, flipped, with noise, as ours; that saturation and hue do nothing to grey images
    costs it time all the same.
    """

    def blur(image: Image.Image) -> Image.Image:
        from PIL import ImageFilter

        return image.filter(ImageFilter.GaussianBlur(radius=float(np.random.default_rng().uniform(0.1, 2.0))))

    def noise(image: torch.Tensor) -> torch.Tensor:
        variance = 10 ** float(np.random.default_rng().uniform(-5, -4))
        return (image + math.sqrt(variance) * torch.randn(image.shape)).clamp(0, 1)

    return tv.Compose(
        [
            tv.Grayscale(3),
            tv.RandomApply([tv.RandomRotation(180)], p=0.5),
            tv.RandomResizedCrop(224, scale=(0.2, 1.0)),
            tv.ColorJitter(0.4, 0.4, 0.4, 0.1),
            tv.RandomApply([blur], p=0.5),
            tv.RandomHorizontalFlip(),
            tv.RandomVerticalFlip(),
            tv.ToTensor(),
            tv.RandomApply([noise], p=0.5),
            tv.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


def monai_pipeline() -> Callable[[Any], Any]:
    """The same steps from MONAI's array transforms; the crop keeps its aspect, which MONAI's has no jitter for."""
    return Compose(
        [
            RandRotate(math.pi, prob=0.5, keep_size=True, padding_mode="border"),
            RandSpatialCrop((230, 230), max_roi_size=(512, 512), random_size=True),
            Resize((224, 224), mode="bilinear", anti_aliasing=True),
            RandFlip(prob=0.5, spatial_axis=0),
            RandFlip(prob=0.5, spatial_axis=1),
            ScaleIntensityRange(LOW, HIGH, 0, 1, clip=True),
            RandScaleIntensity(0.4, prob=1.0),
            RandGaussianSmooth((0.1, 2.0), (0.1, 2.0), prob=0.5),
            RandGaussianNoise(prob=0.5, std=0.01),
            NormalizeIntensity(0.25, 0.25),
        ]
    )


def measure_cpu(store: SliceStore, count: int, rounds: int) -> dict[str, float]:
    """Print milliseconds a view; the ratios."""
    from lightly.transforms import MoCoV2Transform

    rows = spread(store, count)
    pngs = [png_of(store.read(row["series_id"], row["slice"])) for row in rows]
    arrays = [torch.from_numpy(store.read(row["series_id"], row["slice"]))[None].float() for row in rows]
    data = SliceDataset(store, rows=rows, transform=RECIPES["moco, byol"])
    pil, monai, lightly = pil_pipeline(), monai_pipeline(), MoCoV2Transform()
    number = iter(range(10**9))

    def ours() -> None:
        epoch = next(number)
        for index in range(count):
            data[SampleKey(epoch, index)]

    def decoded(png: bytes) -> Image.Image:
        return Image.open(io.BytesIO(png)).convert("RGB")

    def reference() -> None:
        for png in pngs:
            image = decoded(png)
            pil(image), pil(image)

    def lightly_views() -> None:
        for png in pngs:
            lightly(decoded(png))

    def monai_views() -> None:
        for array in arrays:
            monai(array), monai(array)

    print(f"stored slice to view, {count} slices of {arrays[0].shape[1]} px, two views of 224 px each, one core")
    candidates = {"ours": ours, "PIL reference": reference, "lightly": lightly_views, "monai": monai_views}
    seconds = compare(candidates, rounds)
    show(seconds, per=2 * count, unit="ms a view")
    return {name: ratio(seconds, name, "ours") for name in ("PIL reference", "lightly", "monai")}


def measure_device(store: SliceStore, count: int, rounds: int, device: str) -> None:
    """Print milliseconds a slice of both halves of `DeviceViews`, every recipe."""
    rows = spread(store, count)
    for name, transform in RECIPES.items():
        halves = DeviceViews(transform)
        data = SliceDataset(store, rows=rows, transform=halves.draw)

        def draw(data: Any = data, halves: Any = halves) -> Any:
            return halves.collate([data[SampleKey(1, i)] for i in range(len(data))])

        batch = draw()
        print(f"{name}: views of a batch of {count} on {device}")
        apply = partial(halves.apply, batch, device)
        show(compare({"read, draw, collate (one core)": draw}, rounds), per=count, unit="ms a slice")
        show(compare({"copy and apply": apply}, rounds, device), per=count, unit="ms a slice")


def psnr(store: SliceStore, count: int) -> dict[str, float]:
    """Print dB of crop and resizing to 224 px against torchvision's antialiased float result."""
    rng = np.random.default_rng(0)
    errors: dict[str, list[float]] = {"ours": [], "PIL, 8 bits": [], "OpenCV, not antialiased": [], "monai": []}
    for row in spread(store, count):
        hu = store.read(row["series_id"], row["slice"])
        side = int(rng.integers(260, min(hu.shape)))
        top, left = (int(rng.integers(0, n - side + 1)) for n in hu.shape)
        cut = hu[top : top + side, left : left + side]
        exact = tvf.resize(torch.from_numpy(cut)[None].float(), [224, 224], antialias=True)[0].numpy()
        eight = Image.open(io.BytesIO(png_of(hu))).crop((left, top, left + side, top + side))
        small = np.asarray(eight.resize((224, 224), Image.Resampling.BILINEAR), np.float32)
        made = {
            "ours": resample(hu, Crop(top, left, side, side), (224, 224)),
            "PIL, 8 bits": small / 255 * (HIGH - LOW) + LOW,
            "OpenCV, not antialiased": cv2.resize(cut.astype(np.float32), (224, 224), interpolation=cv2.INTER_LINEAR),
            "monai": np.asarray(Resize((224, 224), mode="bilinear", anti_aliasing=True)(cut[None].astype(np.float32)))[
                0
            ],
        }
        for name, view in made.items():
            difference = np.clip(view, LOW, HIGH) - np.clip(exact, LOW, HIGH)
            errors[name].append(float(np.mean(np.square(difference, dtype=np.float64))))
    found = {n: 10 * math.log10((HIGH - LOW) ** 2 / max(float(np.mean(e)), 1e-12)) for n, e in errors.items()}
    print("PSNR of crop and resizing against torchvision's antialiased: ", end="")
    print(", ".join(f"{name} {value:.1f} dB" for name, value in found.items()), flush=True)
    return found


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "", slices=12, rounds=3, store="").parse_args()
    start(options.device, options.threads)
    with tempfile.TemporaryDirectory() as folder:
        store = SliceStore(options.store) if options.store else phantom_store(Path(folder), options.slices)
        measure_cpu(store, options.slices, options.rounds)
        psnr(store, options.slices)
        if options.device != "cpu":
            measure_device(store, options.slices, options.rounds, options.device)


if __name__ == "__main__":
    main()
