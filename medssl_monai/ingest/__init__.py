"""Ingestion: clinical files to a store of slices in Hounsfield units.

Importing this does not import torch or MONAI. What needs them is imported by its own name:
`medssl_monai.store.dataset.SliceDataset` and `medssl_monai.ingest.monai_reader.SimpleITKReader`.
"""

from medssl_monai.ingest.pipeline import build_store
from medssl_monai.ingest.summary import IngestSummary
from medssl_monai.store.pseudonyms import load_key
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.verdicts import Outcome, Reason, Verdict

__all__ = ["IngestSummary", "Outcome", "Reason", "SliceStore", "Verdict", "build_store", "load_key"]
