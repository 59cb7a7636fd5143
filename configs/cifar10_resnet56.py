r"""ResNet-56 on CIFAR-10 at half its MACs, the sums of its stages left whole.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_resnet56.py

Meant for an accelerator, on which it has not run yet; He et al. 2015 report 93.03 % for the
unpruned network. The same with as much training as a CPU does in hours:

    jaxprune run configs/cifar10_resnet56.py --train.epochs 8 --train.optimizer.schedule cosine \
        --method.schedule.name joint --method.search.reconstruction \
        --finetune.epochs 3 --finetune.optimizer.learning-rate 0.05
    jaxprune compare runs/cifar10_resnet56 --paired

| network                            | parameters | MACs   | test    | pruned minus it (95 %)     |
|------------------------------------|------------|--------|---------|----------------------------|
| unpruned, 8 epochs                 | 0.85 M     | 125 M  | 81.59 % | +0.38 (-0.03, +0.79) a tie |
| `finetuned`, 3 more epochs         | 0.85 M     | 125 M  | 82.56 % | -0.59 (-0.99, -0.20)       |
| pruned, 3 epochs of distillation   | 0.40 M     | 62.7 M | 81.97 % |                            |

One seed (n = 1), a core of an AMD EPYC for each training: 97 minutes for the first, 59 and 56 for
the pruned network and its control, which ask the teacher as well; sensitivity took 16 minutes, the
search 2. Nothing was tuned for it. With the whole training, Torch-Pruning publishes 93.53 % before
and 93.46 % after at 2.11x (93.77 % after sparse training).
"""

import jaxprune as jp

config = jp.RunConfig(
    name="cifar10_resnet56",
    data=jp.DataConfig(name="cifar10", heldout=5000),
    model=jp.ModelConfig(name="resnet56"),
    train=jp.TrainConfig(
        epochs=182,
        batch_size=128,
        optimizer=jp.OptimizerConfig(learning_rate=0.1, weight_decay=1e-4, schedule="step"),
        crop_padding=4,
        flip=True,
    ),
    validation=jp.ValidationConfig(images=768),
    budget=jp.Budget("macs/2", groups="inner"),
    calibration=jp.CalibrationConfig(images=1000, batch_size=50),
    method=jp.Genetic(schedule=jp.Schedule("layerwise")),
    finetune=jp.FinetuneConfig(
        epochs=100,
        batch_size=128,
        optimizer=jp.OptimizerConfig(learning_rate=0.01, weight_decay=1e-4, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    distill=jp.DistillConfig(attention=1e3),
)
