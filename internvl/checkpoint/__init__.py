"""Reading, checking and writing the released InternVL2 layouts as numpy arrays. No Paddle.

config = read_model_config(folder)
checkpoint = open_checkpoint(folder, config)
for name, array in checkpoint.tensors("vision_model."):
    ...
"""

from internvl.checkpoint.layout import Layout
from internvl.checkpoint.progress import ProgressHook, progress_bar
from internvl.checkpoint.random_checkpoint import write_random_checkpoint
from internvl.checkpoint.random_weights import random_tensors
from internvl.checkpoint.reader import Checkpoint, open_checkpoint, survey_checkpoint
from internvl.checkpoint.series import SERIES, series_config
from internvl.checkpoint.tensor_specs import Part, TensorKind, TensorSpec, expected_tensors
from internvl.checkpoint.writer import FileFormat, WriteOptions, write_weights

__all__ = [
    "SERIES",
    "Checkpoint",
    "FileFormat",
    "Layout",
    "Part",
    "ProgressHook",
    "TensorKind",
    "TensorSpec",
    "WriteOptions",
    "expected_tensors",
    "open_checkpoint",
    "progress_bar",
    "random_tensors",
    "series_config",
    "survey_checkpoint",
    "write_random_checkpoint",
    "write_weights",
]
