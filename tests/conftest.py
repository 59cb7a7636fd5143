"""What holds for all tests: programs are compiled quickly, since most of them run once or twice.

Measured on the training and model tests: half the processor time. XLA's level 0 would be quicker
still, but gives NaN for the gradient of some maxima.
"""

import importlib.metadata
import os

_FLAGS = ["--xla_backend_optimization_level=1"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # later versions have these alone

os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")])
