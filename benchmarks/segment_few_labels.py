"""Does a pre-trained encoder help a U-Net that has few labelled patients? Dice of the phantom's organs, scratch beside.

    python benchmarks/segment_few_labels.py --out DIR [--seeds 3]

100 synthetic patients of 16 slices (64 pixels). SparK pre-trains a ResNet-18 on the 60 training patients without labels
(configs/small.yaml, `PRETRAINING_EPOCHS` of 60 steps). MONAI's FlexibleUNet, as in docs/how_to/segmentation.yaml, then
learns from the masks of 2 and of 6 of these patients, drawn by the seed, with SparK's encoder and with a random one:
the same patients and the same draws, `EPOCHS` × `STEPS` steps of 8 slices. The last network is judged on the other 40
patients by MONAI's DiceMetric. Nothing is chosen by their masks.

Prints mean Dice of each organ over seeds, and the paired difference. A stopped run carries on.
"""

import argparse
import json
import logging
import statistics
import time
from pathlib import Path

import torch
from monai.bundle import ConfigWorkflow

from medssl_monai.ingest import build_store
from medssl_monai.runs.pretrain import pretrain
from medssl_monai.samples.segmentation import write_segmentation

CONFIG = Path(__file__).resolve().parents[1] / "docs" / "how_to" / "segmentation.yaml"
PUBLIC_KEY = b"medssl-monai benchmark: public images only"
PRETRAINING_EPOCHS, EPOCHS, STEPS = 10, 6, 100
COUNTS = (2, 6)


def segment(out: Path, data: Path, patients: int, seed: int, encoder: Path | None, steps: int) -> dict[str, float]:
    """Dice of each organ, and their mean by patient: the configuration as run by `python -m monai.bundle run`."""
    result = out / "dice.json"
    if not result.exists():
        workflow = ConfigWorkflow(
            config_file=str(CONFIG),
            workflow_type="train",
            logging_file=False,
            dataset_dir=str(data),
            output_dir=str(out),
            encoder_weights=None if encoder is None else str(encoder),
            arch="resnet18",
            image_size=64,
            patients=patients,
            slices_per_volume=4,
            seed=seed,
            max_epochs=EPOCHS,
            epoch_length=steps,
            device="cpu",
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    found: dict[str, float] = json.loads(result.read_text(encoding="utf-8"))
    return found


def show(found: dict[tuple[int, str], list[dict[str, float]]]) -> None:
    """A table for each number of labelled patients, a row an organ."""
    for patients in COUNTS:
        scratch, spark = found[patients, "scratch"], found[patients, "spark"]
        print(f"\nmasks of {patients} patients, {len(spark)} seeds\n\n| organ | scratch | SparK | difference |")
        print("|---|---|---|---|")
        for organ in spark[0]:
            gains = [a[organ] - b[organ] for a, b in zip(spark, scratch, strict=True)]
            means = " | ".join(f"{statistics.mean(one[organ] for one in each):.3f}" for each in (scratch, spark))
            sd = f"{statistics.stdev(gains):.3f}" if len(gains) > 1 else "–"
            wins = f"{sum(gain > 0 for gain in gains)}/{len(gains)}"
            print(f"| {organ} | {means} | {statistics.mean(gains):+.3f} ± {sd}, {wins} |")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=100, help="of the phantom")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each of {EPOCHS} epochs")
    parser.add_argument("--pretraining-epochs", type=int, default=PRETRAINING_EPOCHS)
    options = parser.parse_args()
    logging.getLogger("ignite").setLevel(logging.WARNING)
    out, started = options.out, time.process_time()
    data = out / "data"
    if not (data / "dataset.json").exists():
        write_segmentation(data, patients=options.patients, seed=1, size=64, slices=16)
    build_store([data / "train" / "images"], out / "store", key=PUBLIC_KEY, modality="CT", progress=False)
    settings = {"seed": 0, "device": "cpu", "guard_interval": 1000, "probe_interval": 1000}
    pretrain("spark", out / "store", out / "spark", config="small", max_epochs=options.pretraining_epochs, **settings)
    encoders = {"scratch": None, "spark": out / "spark"}
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for patients in COUNTS:
            for name, encoder in encoders.items():
                cell = out / f"{name}-{patients}-{seed}"
                figures = segment(cell, data, patients, seed, encoder, options.steps)
                found.setdefault((patients, name), []).append(figures)
                print(f"{cell.name}: mean Dice {figures['mean_dice']:.3f}", flush=True)
        show(found)
    minutes = (time.process_time() - started) / 60
    print(f"\n{minutes:.1f} minutes of processor time, torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
