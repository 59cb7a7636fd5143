"""A small VGG on CIFAR-10, on which the pruning schedules are compared.

    TFDS_DATA_DIR=... python scripts/compare_schedules.py configs/cifar10_schedules.py
    TFDS_DATA_DIR=... jaxprune run configs/cifar10_schedules.py --method.schedule.name layerwise

It trains on 20,000 images, so that the other 30,000 of the training part can tell small differences
apart.

Time: an hour and a quarter a seed for all schedules on 2 x86-64 CPU cores, shared with other work.
Result: one seed; held out 68.2 % layerwise, 68.1 % gradual (cubic), 67.6 % joint, 67.4 % gradual
(linear), at 8x fewer parameters and 3x fewer MACs; 74.7 % unpruned.
"""

import jaxprune as jp

_WIDTHS = {f"conv{stage}_{i}": 8 * 2**stage for stage in (1, 2, 3) for i in (1, 2)}

config = jp.RunConfig(
    name="cifar10_schedules",
    data=jp.DataConfig(name="cifar10", heldout=30_000),
    model=jp.ModelConfig(name="vgg_small", widths=_WIDTHS),
    train=jp.TrainConfig(
        epochs=12, batch_size=64, optimizer=jp.OptimizerConfig(learning_rate=0.05)
    ),
    validation=jp.ValidationConfig(images=1000, batch_size=250),
    budget=jp.Budget("params/8,macs/3"),
    calibration=jp.CalibrationConfig(images=512, batch_size=64),
    method=jp.Genetic(
        schedule=jp.Schedule("layerwise", rounds=6, training=jp.Retraining(learning_rate=0.02))
    ),
    finetune=jp.FinetuneConfig(
        epochs=12, batch_size=64, optimizer=jp.OptimizerConfig(learning_rate=0.05)
    ),
    distill=jp.DistillConfig(attention=100, kl=1),
    controls=(),
)
