r"""VGG-16 on CIFAR-10: the headline of Hu et al. 2018, 8x fewer parameters and 3x fewer MACs.

    TFDS_DATA_DIR=... jaxprune run configs/cifar10_vgg16.py

Meant for an accelerator, on which it has not run yet; configs/cifar10_smoke.py shows within
minutes that a machine is set up. On a CPU, weights of the same network that was trained in PyTorch
(14 epochs, 45,000 images) stand in place of the training, with the ids of the images that it has
not seen:

    jaxprune run configs/cifar10_vgg16.py --model.weights vgg16_bn_cifar10.safetensors \
        --model.weights-epochs 14 --data.heldout heldout_ids.txt \
        --method.schedule.name joint --method.search.reconstruction \
        --finetune.epochs 8 --finetune.optimizer.learning-rate 0.05 \
        --controls finetuned plain scratch scratch_distilled
    jaxprune compare runs/cifar10_vgg16 --paired

| network                          | parameters | MACs  | test    | pruned minus it (95 %)     |
|----------------------------------|------------|-------|---------|----------------------------|
| unpruned, as it came             | 14.73 M    | 313 M | 87.92 % | +0.25 (-0.21, +0.71) a tie |
| `plain`, 8 more epochs           | 14.73 M    | 313 M | 88.83 % | -0.66 (-1.10, -0.22)       |
| `finetuned`, 8 more epochs       | 14.73 M    | 313 M | 89.12 % | -0.95 (-1.38, -0.53)       |
| `scratch`, 22 epochs             | 1.84 M     | 104 M | 87.86 % | +0.31 (-0.27, +0.89) a tie |
| `scratch_distilled`, 22 epochs   | 1.84 M     | 104 M | 87.95 % | +0.22 (-0.32, +0.75) a tie |
| pruned, 8 epochs of distillation | 1.84 M     | 104 M | 88.17 % |                            |

The pruned network ties with the one that it was cut from and, with distillation or without, with
the same widths trained from random weights for as long as pre-training and fine-tuning together.
It is behind the unpruned one given as much more training, as those from random weights are: at
these widths no start tried here reaches it in 22 epochs. As cut, before any training, the pruned
network has 85.85 %: reconstruction refits each layer to the channels that are left. In PyTorch
(`jaxprune export`) it has the same accuracy on the held-out images.

One seed (n = 1), 2 cores of an AMD EPYC, float32; paired bootstrap over the 10,000 test images.
What was chosen (widths, channels, the weight of the attention maps, the learning rate) was chosen
on the 5,000 held-out images (`jaxprune evaluate RUN --heldout`):

| learning rate of the fine-tune                                                | held out |
|-------------------------------------------------------------------------------|----------|
| 0.01                                                                          | 88.80 %  |
| 0.05                                                                          | 89.70 %  |
| 0.1                                                                           | 89.28 %  |
| 0.05, the teacher's softened outputs beside the maps (`--distill.kl 1`)       | 89.34 %  |
| 0.05, `plain`                                                                 | 90.44 %  |
| 0.05, `finetuned`                                                             | 90.28 %  |

The controls have the one rate: on these images, tuning theirs could only widen the gap. The
network came after a short training; a full one, of 200 epochs, reaches 93 to 94 %. That the eight
epochs are for the most part more of that training, of which the large network takes in more, is a
guess.

Time: on two quiet cores sensitivity and search about 6 minutes each, an epoch about 5 for the
pruned network, 6.5 for `plain` and 8 for `finetuned`; the 22 epochs of `scratch` 2.1 hours, with
distillation 2.8, with other work beside them. 64 images take 131 ms before and 74 ms after.
"""

import jaxprune as jp

config = jp.RunConfig(
    name="cifar10_vgg16",
    data=jp.DataConfig(name="cifar10", heldout=5000),
    model=jp.ModelConfig(name="vgg16"),
    train=jp.TrainConfig(
        epochs=200,
        batch_size=128,
        optimizer=jp.OptimizerConfig(learning_rate=0.1, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    validation=jp.ValidationConfig(images=768),
    budget=jp.Budget("params/8,macs/3"),
    calibration=jp.CalibrationConfig(images=1000, batch_size=50),
    method=jp.Genetic(schedule=jp.Schedule("layerwise")),
    finetune=jp.FinetuneConfig(
        epochs=100,
        batch_size=128,
        optimizer=jp.OptimizerConfig(learning_rate=0.01, schedule="cosine"),
        crop_padding=4,
        flip=True,
    ),
    distill=jp.DistillConfig(attention=10.0),  # the last maps are 2x2: 1e3 drowns the labels
)
