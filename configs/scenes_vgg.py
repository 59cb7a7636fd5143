"""Procedural road scenes in place of a driving simulator's: fog and street are outliers.

    jaxprune run configs/scenes_vgg.py
    jaxprune supervise runs/scenes_vgg

The scenes are drawn by `jaxprune/data/scenes.py` and are nobody's camera or simulator: they show
how the cases Pro-SiVIC with fog and with urban of arXiv 1903.01263 are evaluated, and say nothing
about driving.

Time: 6 minutes on 2 x86-64 CPU cores, shared with other work, and a minute for the second command.
Result: one seed, 300 test scenes and as many outliers, test accuracy 100 % before and after pruning
to a quarter of the parameters. Fog is told from clear weather by all (AUROC 0.93 to 1.00, before
and after). The street is less and less: the AUROC of max_softmax falls from 0.904 to 0.792, of odin
from 0.859 to 0.800, of openmax from 0.958 to 0.880, of energy from 0.860 to 0.810 and of
mahalanobis from 1.000 to 0.976; the autoencoder, which sees the images alone, has 0.958.
"""

import jaxprune as jp

_TRAINING = {
    "epochs": 6,
    "batch_size": 64,
    "optimizer": jp.OptimizerConfig(learning_rate=0.05),
    "crop_padding": 2,
    "flip": False,
}

config = jp.RunConfig(
    name="scenes_vgg",
    data=jp.DataConfig(name="scenes", heldout=300),
    model=jp.ModelConfig(
        name="vgg_small", widths={f"conv{s}_{i}": 8 * 2**s for s in (1, 2, 3) for i in (1, 2)}
    ),
    train=jp.TrainConfig(**_TRAINING),
    budget=jp.Budget("params/4,macs/3"),
    calibration=jp.CalibrationConfig(images=256, batch_size=64),
    recalibration=jp.RecalibrationConfig(images=512, batch_size=128),
    finetune=jp.FinetuneConfig(**_TRAINING),
    distill=jp.DistillConfig(attention=100, kl=1),
    controls=(),
)
