"""The names of files in the folder of a run, and in a folder of ClassyVision's checkpoints."""

from __future__ import annotations

RUN_CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"
BEST = "best.safetensors"
CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
SHARDS = "checkpoint.shards"
METRICS = "metrics.json"
TABLE = "metrics.csv"
CURVES = "curves.png"
PREDICTIONS = "predictions.png"
LISTING = "files.csv"
TENSORBOARD = "tensorboard"
LOCK = ".lock"
CLASSY_CHECKPOINT = "checkpoint.torch"
"""The file of the original."""
