r"""A small VGG on CIFAR-10, on which the pruning schedules are compared.

It trains on 20,000 images, so that the other 30,000 of the training part can tell small
differences apart; the test part is not read. Each schedule prunes the same trained network and
trains for 12 epochs after that, those between its rounds included:

    config=configs/cifar10_schedules.py
    jaxprune train $config --out runs/joint --method.schedule.name joint
    jaxprune train $config --out runs/layerwise --from runs/joint --finetune.epochs 6
    jaxprune train $config --out runs/cubic --from runs/joint --finetune.epochs 6 \
        --method.schedule.name gradual   # and linear: --method.schedule.decline linear
    for run in joint layerwise cubic; do
        jaxprune prune runs/$run; jaxprune finetune runs/$run; jaxprune evaluate runs/$run --heldout
    done
    jaxprune compare runs/joint runs/layerwise runs/cubic --paired --heldout

Or one of them with its test: `jaxprune run configs/cifar10_schedules.py --finetune.epochs 6`.

Time: an hour and a quarter for all on 2 x86-64 CPU cores, shared with other work.
Result: one seed (n = 1; the intervals are those of the images alone) at 8x fewer parameters and 3x
fewer MACs; the unpruned network has 74.71 %. `layerwise` and cubic `gradual` cannot be told apart.

| schedule                   | held out | minus `joint`, points (95 %) |
|----------------------------|----------|------------------------------|
| `joint`                    | 67.55 %  |                              |
| `layerwise`                | 68.20 %  | +0.66 ± 0.41                 |
| `gradual`, linear, 6 rounds| 67.40 %  | -0.15 ± 0.41                 |
| `gradual`, cubic, 6 rounds | 68.10 %  | +0.56 ± 0.42                 |

`layerwise` costs an epoch at full size for each group that is pruned; where that is too much, as
for ImageNet here, `joint` costs none.
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
