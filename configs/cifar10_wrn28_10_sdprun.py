r"""WRN-28-10 on CIFAR-10 by directional pruning (Li et al. 2021, arXiv 2107.05328).

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_wrn28_10_sdprun.py

It is pruned as it is trained, for 200 epochs, and not fine-tuned; the paper's threshold decides how
much falls. The control is the unpruned network trained as long by SGD with momentum. gRDA, whose
threshold is for single weights, has 94.5 % at c = 0.001 and mu = 0.6 and SGD without momentum
94.2 % in the log of its authors; c is larger here, since a whole unit is not as easily held down.

Time: meant for an accelerator, on which it has not run to its end yet; on two CPU cores it would
take months.
Result: none yet; Li et al. 2021 report 93.97 % for VGG-16 on CIFAR-10 without retraining. What ran,
through all its stages, are 3 steps of 4 images, a 750,000th of the schedule (with XLA_FLAGS of
--xla_backend_optimization_level=0, else compiling takes the longest):

    jaxprune run configs/cifar10_wrn28_10_sdprun.py --finetune.batch-size 4 \
        --method.epochs 0.0003 --recalibration.images 16 --recalibration.batch-size 8 \
        --evaluation.images 20 --evaluation.batch-size 10 --controls
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

base = jp.load_config(Path(__file__).with_name("cifar10_wrn28_10.py"))
config = replace(
    base,
    name="cifar10_wrn28_10_sdprun",
    train=replace(base.train, epochs=0),
    budget=jp.Budget("params/1"),
    method=jp.SDprun(epochs=200, learning_rate=0.1, drops=(0.5, 0.75), c=0.002, mu=0.6),
    finetune=jp.FinetuneConfig(**{**vars(base.train), "epochs": 0}),
    controls=("plain",),
)
