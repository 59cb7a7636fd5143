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

What ran: not this yet, it takes hours on two CPU cores. On the digits (`digits_vgg`, one seed, 500
test images, `--method pivoting --budget.targets params/3,macs/3`): 97.8 % of the unpruned network
become 18.2 % as cut, 92.4 % with BatchNorm statistics taken anew and 98.2 % fine-tuned, at 3.74×
fewer parameters and 3.26× fewer MACs; its control, trained as long, has 97.6 %: a tie. How much
weight pivoting keeps in a trained VGG-16 stands in `scripts/pivoting_quality.py`, what the blocks
gain in speed in `scripts/benchmarks/blocks.py`.
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
