r"""VGG-16 on CIFAR-10, kernels pivoted into blocks on the diagonal (Sredojevic et al. 2017).

    jaxprune run configs/cifar10_vgg16_pivoting.py

MACs a quarter, in three rounds with an epoch of training after each of the first two. The controls
hold it against the unpruned network, and against channels of the largest L1 norm at the same MACs.
The other points of the table that the paper is about, at the densities 1/2, 1/4 and 1/8:

    jaxprune run configs/cifar10_vgg16_pivoting.py --budget.targets macs/2 --out runs/pivoted_2 \
        --from runs/cifar10_vgg16_pivoting
    jaxprune run configs/cifar10_vgg16_pivoting.py --method.orders natural --out runs/unpivoted_4 \
        --from runs/cifar10_vgg16_pivoting
    jaxprune run configs/cifar10_vgg16_pivoting.py --method.structure free --out runs/free_4 \
        --from runs/cifar10_vgg16_pivoting
    jaxprune run configs/cifar10_vgg16_pivoting.py --method.structure free --method.tile 1 \
        --out runs/unstructured_4 --from runs/cifar10_vgg16_pivoting

(tiles of 1 × 1 are pairs of channels, the unstructured end). After channel pruning the cuts
multiply: `jaxprune.prune` on `pruned.wrap(fn)` and `pruned.variables` of a network whose channels
are pruned.

What ran: not this yet, it takes hours on two CPU cores. In its place one round and a fine-tune of
88 steps (a quarter of an epoch, without a teacher) from the weights of 52 epochs, alike for all:

    jaxprune run configs/cifar10_vgg16_pivoting.py --model.weights FILE.safetensors \
        --model.weights-epochs 52 --data.heldout IDS.txt --method.rounds 1 \
        --finetune.epochs 0.25 --finetune.optimizer.learning-rate 0.02 \
        --finetune.precision bfloat16 --finetune.alternating --distill.attention 0 \
        --evaluation.images 2000 --controls

Test accuracy in percent with BatchNorm statistics taken anew and, after the stroke, fine-tuned, at
the MACs of the unpruned network (91.5 %) over 2, 4 and 8; channels are those of the largest L1
norms (`--method l1`); 2,000 test images, a standard error of 0.7 to 1.1 points, one seed:

| what stays                           | macs/2      | macs/4      | macs/8      |
|--------------------------------------|-------------|-------------|-------------|
| any pairs of channels (unstructured) | 86.6 / 88.1 | 64.0 / 83.6 | 31.6 / 67.4 |
| channels                             | 69.2 / 87.4 | 31.5 / 75.2 | 16.9 / 59.1 |
| blocks on the diagonal, pivoted      | 59.6 / 81.8 | 26.2 / 67.6 | 11.4 / 54.2 |
| blocks on the diagonal, as they are  | 44.1 / 79.2 | 17.6 / 60.5 | 13.8 / 54.0 |

Pivoting gains 3 points over blocks as they are at a half, 7 at a quarter, and nothing at an eighth.
It is not between the two extremes here but below both: channels at equal MACs keep more accuracy,
have 13.4 and 29.3 times fewer parameters where blocks have 6.0 and 13.4, and were 2.5 and 4.6 times
as quick in these runs, on a busy machine; of pivoted networks `scripts/benchmarks/pivoted.py`
measures 1.1 to 2.1 times at 128 images. 88 steps say nothing of what longer training gives back.

On the digits (`digits_vgg`, one seed, 500 test images, `--method pivoting --budget.targets
params/3,macs/3`): 97.8 % of the unpruned network become 18.2 % as cut, 92.4 % with BatchNorm
statistics taken anew and 98.2 % fine-tuned, at 3.74× fewer parameters and 3.26× fewer MACs; its
control, trained as long, has 97.6 %: a tie. How much weight pivoting keeps in a trained VGG-16
stands in `scripts/pivoting_quality.py`, what the blocks gain in speed in
`scripts/benchmarks/blocks.py`.
"""

from dataclasses import replace
from pathlib import Path

import jaxprune as jp

config = replace(
    jp.load_config(Path(__file__).with_name("cifar10_vgg16.py")),
    name="cifar10_vgg16_pivoting",
    method=jp.Pivoting(structure="diagonal", tile=16, rounds=3),
    budget=jp.Budget("macs/4"),
    controls=("finetuned", "l1"),
)
