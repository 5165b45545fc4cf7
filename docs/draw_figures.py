"""Draws the figures of the docs: ``python docs/draw_figures.py [OUT]``, by the package's own code, on the phantom.

The views and schedules take seconds; SparK's reconstruction trains for minutes, and is drawn only with ``--train``.
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from PIL import Image

from medssl_monai.handlers.reconstruction_panel import draw_reconstructions, hide_masked, show_picture
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.losses.sinkhorn import sinkhorn
from medssl_monai.methods.byol import target_momentum
from medssl_monai.methods.spark import SparK
from medssl_monai.methods.swav import SwAV
from medssl_monai.networks.masked import masked_features
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.optimizers.schedules import recurring_cosine, warmup_cosine
from medssl_monai.resources import bundle_dir, config_file
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.samples.phantom import make_patient, write_phantom
from medssl_monai.transforms import (
    Crop,
    LabelledParameters,
    LabelledView,
    MultiCropViews,
    SparKViews,
    TwoViews,
    sample_generator,
)

IMAGES = Path(__file__).resolve().parent / "images"
LARGE, SMALL = "#f2a33a", "#4fc3f7"
COLOURS = 64  # beside greys: a palette keeps the pictures small
REGIONS = ("head", "thorax", "abdomen_pelvis")
VERDICTS = (
    ("accepted", "head CT", "#2e7d32"),
    ("repaired", "undeclared padding", "#c77700"),
    ("rejected", "values are not HU", "#c62828"),
)
"""Examples for the overview: verdict, reason and colour."""
SIZE = 192  # pixels a side of the phantom's slices


def thorax() -> npt.NDArray[np.int16]:
    """A slice (1, H, W) in HU through the phantom's chest."""
    patient = make_patient(3, seed=4, size=SIZE, slices=9)
    return patient.volume[None, patient.labels.index("thorax") + 1]


def draw_overview(out: Path) -> None:
    """What the package does, from left to right: archive, verdicts, views, encoder, classifier."""
    patient = make_patient(3, seed=4, size=SIZE, slices=9)
    slices = [patient.volume[None, patient.labels.index(label) + 1] for label in REGIONS]
    figure = Figure(figsize=(12, 2.9))
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, 12), ylim=(0, 2.9))
    page.axis("off")
    steps = {
        "1  Archive": "DICOM, NIfTI, a PACS",
        "2  Verdict on every series": "accepted slices are kept in HU",
        "3  Views": "random crops and masks",
        "4  Encoder": "trained without labels",
        "5  Classifier": "fine-tuned on few labels",
    }
    for number, (title, words) in enumerate(steps.items()):
        left = 0.15 + 2.4 * number
        page.text(left + 1.0, 2.68, title, ha="center", fontsize=12, weight="bold")
        page.text(left + 1.0, 0.2, words, ha="center", fontsize=10, color="#444444")
        if number:
            page.annotate("", (left + 0.02, 1.45), (left - 0.28, 1.45), arrowprops={"arrowstyle": "-|>", "lw": 2})
    for number, image in enumerate(slices):
        show(at(figure, 0.2 + 0.35 * number, 1.45 - 0.4 * number, 1.0), windowed(image), "")
    for number, (verdict, words, colour) in enumerate(VERDICTS):
        bottom = 1.82 - 0.62 * number
        if number < len(slices):
            show(at(figure, 2.65, bottom, 0.52), windowed(slices[number]), "")
        page.text(3.27, bottom + 0.3, verdict, fontsize=11, color=colour, weight="bold")
        page.text(3.27, bottom + 0.08, words, fontsize=9, color="#444444")
    views = TwoViews(window="wide")
    drawn = views.apply(slices[1], views.draw(sample_generator(seed=11, epoch=0, index=0), *slices[1].shape[1:]))
    hiding = SparKViews(224, window="wide", mean=0.0, std=1.0)
    whole, mask = hiding.apply(slices[1], hiding.draw(sample_generator(1, 0, 0), *slices[1].shape[1:]))
    pictures = [one[0].numpy() for one in (*drawn, whole, hide_masked(whole, mask))]
    for number, picture in enumerate(pictures):
        colour = (LARGE, SMALL, None, None)[number]
        show(at(figure, 4.97 + 0.98 * (number % 2), 1.52 - 1.0 * (number // 2), 0.92), picture, "", colour)
    page.add_patch(Polygon([(7.5, 2.4), (9.2, 1.95), (9.2, 0.95), (7.5, 0.5)], facecolor="#455a64"))
    page.text(
        8.35, 1.45, "ResNet-50\nSparK, SwAV,\nMoCo v2, BYOL", ha="center", va="center", color="white", fontsize=11
    )
    for number, (region, share) in enumerate(zip(("head", "thorax", "abdomen"), (0.04, 0.9, 0.06), strict=True)):
        bottom = 2.0 - 0.62 * number
        page.barh(bottom, 1.05 * share, height=0.34, left=10.72, color=LARGE if share > 0.5 else "#9e9e9e")
        page.text(10.66, bottom, region, ha="right", va="center", fontsize=11)
    save(figure, out / "overview.png")


def at(figure: Figure, left: float, bottom: float, size: float) -> Axes:
    """Square axes at a place of the overview, in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, bottom / height, size / width, size / height))


def draw_swav(out: Path) -> None:
    """A slice with the boxes of its crops, and the crops."""
    image = thorax()
    views = MultiCropViews(window="wide")
    parameters = views.draw(sample_generator(seed=5, epoch=0, index=0), *image.shape[1:])
    crops = views.apply(image, parameters)
    figure = Figure(figsize=(9.6, 3.5), layout="constrained")
    grid = figure.add_gridspec(2, 6)
    whole = figure.add_subplot(grid[:, :2])
    show(whole, windowed(image), "slice, with what each crop covers")
    for number, (one, crop) in enumerate(zip(parameters, crops, strict=True), start=1):
        colour = LARGE if number <= 2 else SMALL
        outline(whole, one.crop, image.shape[1:], colour, str(number))
        axes = figure.add_subplot(grid[(number - 1) // 4, 2 + (number - 1) % 4])
        show(axes, crop[0].numpy(), f"{number}: {crop.shape[1]} px", colour)
    save(figure, out / "swav_views.png")


def draw_two_views(out: Path) -> None:
    """Two views a slice, as MoCo v2 and BYOL compare them, on two slices."""
    patient = make_patient(3, seed=4, size=SIZE, slices=9)
    figure = Figure(figsize=(9.6, 4.3), layout="constrained")
    axes = figure.subplots(2, 5, width_ratios=[1, 1, 1, 1, 1])
    for row, label in enumerate(("thorax", "abdomen_pelvis")):
        image = patient.volume[None, patient.labels.index(label) + 1]
        views = TwoViews(window="wide")
        show(axes[row, 0], windowed(image), "slice, and two draws" if row == 0 else "")
        for draw in range(2):
            parameters = views.draw(sample_generator(seed=11, epoch=draw, index=row), *image.shape[1:])
            if draw == 0:
                for one, colour in zip(parameters, (LARGE, SMALL), strict=True):
                    outline(axes[row, 0], one.crop, image.shape[1:], colour)
            for number, view in enumerate(views.apply(image, parameters)):
                title = f"epoch {draw}, view {number + 1}" if row == 0 else ""
                colour = (LARGE, SMALL)[number] if draw == 0 else None
                show(axes[row, 1 + 2 * draw + number], view[0].numpy(), title, colour)
    save(figure, out / "two_views.png")


def draw_codes(out: Path) -> None:
    """Scores of 24 slices on 12 prototypes: nearest prototypes alone, and the balanced codes of Sinkhorn-Knopp."""
    torch.manual_seed(0)
    method = SwAV("resnet18", hidden_dim=64, embedding_dim=16, prototypes=12).train()
    view = LabelledView(64, window="wide", mean=0.25, std=0.25)
    slices = [volume for index in range(2) for volume in make_patient(index, seed=4, size=64, slices=12).volume]
    batch = torch.stack([view.apply(one[None], LabelledParameters()) for one in slices])
    with torch.no_grad():
        method.prototypes.normalise()
        scores = method.prototypes(method.embed(batch))
    soft = (scores / method.epsilon).softmax(dim=1)
    codes = sinkhorn(scores, method.epsilon, method.sinkhorn_iterations)
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 0.9])
    for one, values, title in zip(axes, (soft, codes), ("softmax alone", "codes"), strict=False):
        one.imshow(values.T.numpy(), cmap="magma", vmin=0, vmax=1, aspect="auto")
        one.set(title=title, xlabel="slices of a batch", ylabel="prototypes", xticks=[], yticks=[])
    places = np.arange(12)
    axes[2].barh(places - 0.2, soft.sum(0).numpy(), height=0.4, color="#9e9e9e", label="softmax alone")
    axes[2].barh(places + 0.2, codes.sum(0).numpy(), height=0.4, color=LARGE, label="codes")
    axes[2].axvline(2, color="black", linewidth=0.8, linestyle=":")
    axes[2].set(
        title="slices that each prototype holds", xlabel="of 24; an equal share is 2", yticks=[], ylim=(11.7, -0.7)
    )
    axes[2].legend(fontsize=8, loc="lower right")
    save(figure, out / "swav_codes.png")


def draw_schedules(out: Path) -> None:
    """The default schedules and those that the published code ran, over 20 epochs of 100 steps."""
    steps = np.arange(2000)
    figure = Figure(figsize=(9.6, 2.7), layout="constrained")
    axes = figure.subplots(1, 3)
    plot(
        axes[0],
        "SwAV: learning rate",
        steps,
        lambda s: warmup_cosine(s, 2000, 200, 0.15, 0.0, 0.0),
        lambda s: recurring_cosine(s, 800, 10, 0.15),
    )
    plot(
        axes[1],
        "BYOL: τ of the target",
        steps,
        lambda s: target_momentum(s, 2000, 0.996),
        lambda s: target_momentum(s, 100, 0.996),
    )
    plot(
        axes[2],
        "BYOL: learning rate",
        steps * 10,
        lambda s: warmup_cosine(s, 20000, 1000, 1e-3, 0.0, 0.0),
        lambda s: recurring_cosine(s // 100, 100, 10, 1e-3, climb=9),
    )
    save(figure, out / "schedules.png")


def plot(
    axes: Axes,
    title: str,
    steps: npt.NDArray[np.int64],
    default: Callable[[int], float],
    executed: Callable[[int], float],
) -> None:
    """Two schedules over a run's steps."""
    axes.plot(steps, [executed(int(s)) for s in steps], color=SMALL, linewidth=1.0, label="published code")
    axes.plot(steps, [default(int(s)) for s in steps], color="#c75b12", linewidth=1.6, label="default")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("steps", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.set_ylim(top=axes.get_ylim()[1] + 0.3 * float(np.subtract(*axes.get_ylim()[::-1])))
    axes.legend(fontsize=7, loc="upper right")


def draw_mask(out: Path) -> None:
    """SparK's view, and where its encoder's four maps are not zero: under its mask, and without."""
    image = thorax()
    views = SparKViews(224, window="wide")
    view, mask = views.apply(image, views.draw(sample_generator(seed=1, epoch=0, index=0), *image.shape[1:]))
    hidden = hide_masked(view, mask)
    torch.manual_seed(0)
    encoder = resnet_encoder("resnet18").eval()
    visible = hidden.nan_to_num(0)[None]
    rows = {
        "SparK": masked_features(encoder, view[None], mask[None]),
        "unmasked": masked_features(encoder, visible, torch.ones_like(mask[None])),
    }
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    axes = figure.subplots(2, 5)
    show(axes[0, 0], view[0].numpy(), "view")
    show(axes[1, 0], hidden[0].numpy(), "20 of 49 cells are visible")
    for row, (name, maps) in enumerate(rows.items()):
        for column, features in enumerate(maps, start=1):
            size = f"{features.shape[2]} × {features.shape[3]}"
            axes[row, column].imshow((features[0].detach().abs().amax(0) > 0).numpy(), cmap="Oranges", vmin=0, vmax=1.5)
            axes[row, column].set(xticks=[], yticks=[])
            axes[row, column].set_title(f"{name}: map of {size}", fontsize=9)
    save(figure, out / "spark_mask.png")


def draw_reconstruction(out: Path) -> None:
    """Train SparK for 360 steps on twelve phantom patients, then let it fill in slices of two others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantom(folder / "learn", patients=12, seed=4, size=128, slices=24)
        write_phantom(folder / "unseen", patients=2, seed=5, size=128, slices=24)
        build_store([folder / "learn"], folder / "store", modality="CT", progress=False)
        build_store([folder / "unseen"], folder / "others", modality="CT", progress=False)
        settings = {
            "dataset_dir": str(folder / "store"),
            "output_dir": str(folder / "run"),
            "arch": "resnet18",
            "image_size": 128,
            "max_epochs": 20,
            "seed": 0,
        }
        run = run_bundle([bundle_dir("ct_ssl_spark") / "configs" / "train.yaml", config_file("demo")], settings)
        method = run.parser.get_parsed_content("method").cpu().eval()
        draw_filled_in(method, SliceStore(folder / "others"), out / "spark_reconstruction.png")


def draw_filled_in(method: SparK, store: SliceStore, path: Path) -> None:
    """Input, visible part, prediction and reconstruction of four slices."""
    views = SparKViews(128, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, window="wide", mean=0.25, std=0.25)
    rows = store.select()
    chosen = [rows[i] for i in np.linspace(4, len(rows) - 5, 4).round().astype(int)]
    pairs = []
    for number, row in enumerate(chosen):
        image = store.read(row["series_id"], row["slice"])[None]
        pairs.append(views.apply(image, views.draw(sample_generator(0, 0, number), *image.shape[1:])))
    image, mask = torch.stack([view for view, _ in pairs]), torch.stack([mask for _, mask in pairs])
    draw_reconstructions(method, image, mask, 0.25, 0.25, "Patients that the network has never seen", path)
    shrink(path)


def windowed(image: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """The window ``wide`` of a slice (1, H, W): (H, W) in [0, 1]."""
    return np.clip((image[0].astype(np.float32) + 1000) / 2000, 0, 1)


def show(axes: Axes, picture: npt.NDArray[np.floating], title: str, colour: str | None = None) -> None:
    """A picture in [0, 1] without ticks; hidden pixels (NaN) in red."""
    show_picture(axes, picture)
    axes.set_title(title, fontsize=9)
    for side in axes.spines.values():
        side.set(edgecolor=colour or "#888888", linewidth=2.5 if colour else 0.8)


def outline(axes: Axes, crop: Crop, shape: Sequence[int], colour: str, name: str = "") -> None:
    """The box of a crop on its slice, turned back; an open corner is where the view's first pixel lies."""
    height, width = shape
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=float) * (crop.width, crop.height)
    corners += (crop.left - width / 2, crop.top - height / 2)
    cos, sin = math.cos(math.radians(crop.rotation_degrees)), math.sin(math.radians(crop.rotation_degrees))
    turned = corners @ np.array([[cos, sin], [-sin, cos]]) + (width / 2, height / 2) - 0.5
    axes.add_patch(Polygon(turned, fill=False, edgecolor=colour, linewidth=1.8, clip_on=True))
    if name:
        axes.text(*(turned[0] + (2, 2)), name, color=colour, fontsize=9, va="top", ha="left", weight="bold")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG with a small palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    shrink(path)


def shrink(path: Path) -> None:
    """Keep few colours: evenly spaced greys, and those of the drawing."""
    with Image.open(path) as picture:
        full = picture.convert("RGB")
    coarse = full.quantize(COLOURS, method=Image.Quantize.FASTOCTREE)
    drawn = np.reshape(coarse.getpalette() or [], (-1, 3))
    greys = np.linspace(0, 255, 48).round().repeat(3).reshape(-1, 3)
    palette = np.concatenate([greys, drawn[np.ptp(drawn, axis=1) > 24]]).astype(np.uint8)
    found, places = np.unique(np.asarray(full).reshape(-1, 3), axis=0, return_inverse=True)
    distance = np.square(found[:, None].astype(int) - palette[None]).sum(-1)
    indices = distance.argmin(1)[places.ravel()].astype(np.uint8).reshape(full.size[::-1])
    small = Image.fromarray(indices, "P")
    small.putpalette(palette.tobytes())
    small.save(path, optimize=True)


QUICK = (draw_overview, draw_swav, draw_two_views, draw_codes, draw_schedules, draw_mask)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=IMAGES)
    parser.add_argument("--train", action="store_true", help="also train SparK and draw its reconstruction")
    given = parser.parse_args()
    for draw in (*QUICK, *((draw_reconstruction,) if given.train else ())):
        draw(given.out)
