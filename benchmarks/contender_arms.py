"""The arms of benchmarks/contenders.py, and ideas that did not help and so are not in the package.

Results are in docs/experiments.md.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from deepnoise.network.network import Network
from deepnoise.training.trainer import Trainer


class RemembersBatch(Trainer):
    """A trainer that keeps the rows of the labelled images in the current step."""

    index: torch.Tensor

    def to_input(self, batch, generator=None):
        """Normalized images of the batch; keeps their rows."""
        if generator is not None:
            self.index = torch.from_numpy(batch.index)
        return super().to_input(batch, generator)

    def experiments(self) -> torch.Tensor:
        """(B,) experiment numbers of the batch."""
        codes = self.view.labelled["experiment"].astype("category").cat.codes.to_numpy(dtype="int64")
        return torch.from_numpy(codes)[self.index]


class SupervisedContrast(RemembersBatch):
    """Supervised contrast between images of one class in different experiments (Khosla et al., arXiv 2004.11362)."""

    weight, temperature = 0.3, 0.1

    def cross_entropy(self, network, features, cell_type, label, mixing=None):
        """The usual loss plus the contrast term."""
        loss = super().cross_entropy(network, features, cell_type, label, mixing)
        z = F.normalize(features.float())
        experiment = self.experiments()
        positive = (label[:, None] == label[None]) & (experiment[:, None] != experiment[None])
        similarity = z @ z.T / self.temperature
        similarity = similarity.masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
        log_p = similarity.log_softmax(dim=1)
        has_positive = positive.any(dim=1)
        if not has_positive.any():
            return loss
        contrast = -(log_p * positive).sum(dim=1)[has_positive] / positive.sum(dim=1)[has_positive]
        return loss + self.weight * contrast.mean()


class Reverse(torch.autograd.Function):
    """Gradient reversal: the identity forwards, the negative gradient backwards."""

    @staticmethod
    def forward(ctx, x, weight):
        """The input, unchanged."""
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        """The gradient, reversed and weighted."""
        return -ctx.weight * gradient, None


class DomainAdversarial(RemembersBatch):
    """A head that predicts the experiment; the features get its reversed gradient.

    Source: Ganin and Lempitsky, arXiv 1409.7495.
    """

    weight = 0.3
    adversary: nn.Module | None = None

    def cross_entropy(self, network, features, cell_type, label, mixing=None):
        """The usual loss plus the adversarial term."""
        loss = super().cross_entropy(network, features, cell_type, label, mixing)
        if self.adversary is None:
            count = self.view.labelled["experiment"].nunique()
            with torch.random.fork_rng():
                torch.manual_seed(self.parameters.seed)
                self.adversary = nn.Sequential(nn.Linear(features.shape[1], 64), nn.ReLU(), nn.Linear(64, count))
            self.adversary_optimizer = torch.optim.AdamW(self.adversary.parameters(), lr=1e-3)
        else:
            self.adversary_optimizer.step()  # gradients of the last backward pass
        self.adversary_optimizer.zero_grad()
        experiment_logits = self.adversary(Reverse.apply(features.float(), self.weight))
        return loss + F.cross_entropy(experiment_logits, self.experiments())


class FeatureStatistics(Trainer):
    """Mixes channel means and spreads of early feature maps between images (MixStyle, Zhou et al., arXiv 2104.02008)."""

    def new_network(self, pretrained_weights: str = "none") -> Network:
        """A network with a hook after each early layer."""
        network = super().new_network(pretrained_weights)
        generator = torch.Generator().manual_seed(self.parameters.seed)

        def mix_style(module, inputs, x):
            if not module.training or not torch.is_grad_enabled() or torch.rand((), generator=generator) > 0.5:
                return x
            spread, mean = torch.std_mean(x, dim=(2, 3), keepdim=True)
            spread, mean = (spread + 1e-6).detach(), mean.detach()
            partner = torch.randperm(len(x), generator=generator)
            share = torch.distributions.Beta(0.3, 0.3).sample((len(x), 1, 1, 1))
            standardized = (x - mean) / spread
            return (
                standardized * (share * spread + (1 - share) * spread[partner])
                + share * mean
                + (1 - share) * mean[partner]
            )

        for name in ("layer1", "layer2"):
            if hasattr(network.backbone, name):
                getattr(network.backbone, name).register_forward_hook(mix_style)
        return network


IDEAS: dict[str, type[Trainer]] = {
    "contrast": SupervisedContrast,
    "adversary": DomainAdversarial,
    "feature_statistics": FeatureStatistics,
}

PUBLISHED = {
    "training.head.scale": 30.0, "training.batch_size": 32, "training.sites_per_epoch": "one",
    "training.augmentation.shift_scale": 0.1, "training.augmentation.erase": 0.5,
    "training.pretrain.optimizer": "adam", "training.pretrain.learning_rate": 3e-4, "training.pretrain.weight_decay": 2e-4,
    "training.pretrain.schedule": [
        {"share": 100.0, "start": 1.0, "end": 1.0}, {"share": 40.0, "start": 1 / 3, "end": 1 / 3},
        {"share": 20.0, "start": 1 / 30, "end": 1 / 30},
    ],
    "training.mean_teacher.optimizer": "momentum", "training.mean_teacher.learning_rate": 0.1,
    "training.mean_teacher.weight_decay": 2e-4,
    "training.mean_teacher.schedule": 4 * [{"share": 40.0, "start": 1.0, "end": 0.01}] + [{"share": 5.0, "start": 0.001, "end": 0.001}],
    "training.mean_teacher.views": "two", "training.mean_teacher.unlabelled_ratio": 1.0,
    "training.mean_teacher.pseudo_labels.method": "balanced", "training.mean_teacher.pseudo_labels.refresh": "improved",
    "training.mean_teacher.pseudo_labels.views": 4, "training.mean_teacher.pseudo_labels.memory": 0.1,
    "training.mean_teacher.pseudo_labels.groups": True, "share": 0.5,
}  # fmt: skip
"""The recipe of Yang et al. 2022 in its T1 form: the unlabelled images are those of the training experiments.

The moving average and the start of the pseudo-labels are those of conf/base; the published ones assume 165
epochs.
"""
COST = {"test_resnet": 1.0, "resnet10t": 3.9, "resnet14t": 5.8, "resnet18": 5.4}
"""Milliseconds of a training step per image (6 channels, 64 px, one thread), relative to the 3.4 ms of test_resnet.

Measured by `python benchmarks/contenders.py costs DATA`.
"""

ARMS: dict[str, dict[str, Any]] = {
    "supervised": {"training.batches": "mixed", "training.mean_teacher.epochs": 0},
    "published": PUBLISHED | {"training.batches": "mixed"},
    "mean teacher": {"training.batches": "mixed", "share": 0.75},
}
PREFIX = {
    "pre": "training.pretrain", "mt": "training.mean_teacher", "aug": "training.augmentation", "t": "training",
    "n": "normalization", "head": "training.head",
}  # fmt: skip


def arm(name: str, base: str, **changes: Any) -> None:
    """Register an arm that changes another: ``pre__ema_decay`` is training.pretrain.ema_decay, and so on."""
    changes_by_name = {}
    for key, value in changes.items():
        prefix, _, rest = key.partition("__")
        changes_by_name[f"{PREFIX[prefix]}.{rest.replace('__', '.')}" if rest else key] = value
    ARMS[name] = ARMS[base] | changes_by_name


for rate in (0.0015, 0.006):
    arm(f"supervised, rate {rate}", "supervised", pre__learning_rate=rate)
for rate in (0.001, 0.003):
    arm(f"published, rate {rate}", "published", pre__learning_rate=rate)
arm("pure", "supervised", t__batches="experiment", adabn="experiment")
arm("plate-pure", "supervised", t__batches="plate", adabn="plate")
for rate in (0.0015, 0.006):
    arm(f"pure, rate {rate}", "pure", pre__learning_rate=rate)
arm("adabn only", "supervised", adabn="experiment")
arm("pure, ema 0.99", "pure", pre__ema_decay=0.99)
arm("pure, ema 0.998", "pure", pre__ema_decay=0.998)
arm("pure, batch 96", "pure", t__batch_size=96)
arm("pure, batch 24", "pure", t__batch_size=24)
arm("pure, mixup", "pure", aug__mixup=0.4)
arm("pure, cutmix", "pure", aug__cutmix=1.0)
arm("pure, smoothing", "pure", t__label_smoothing=0.1)
arm("contrast", "supervised", idea="contrast")
arm("adversary", "supervised", idea="adversary")
arm("pure, adversary", "pure", idea="adversary")
arm("feature statistics", "supervised", idea="feature_statistics")
arm("pure, feature statistics", "pure", idea="feature_statistics")
arm("controls", "supervised", n__reference="controls")
arm("pure, controls", "pure", n__reference="controls")
arm("pure, shift and scale", "pure", aug__shift_scale=0.1)
arm("pure, erase", "pure", aug__erase=0.5)
arm("pure, resnet10t", "pure", t__backbone="resnet10t")
arm("pure, resnet18", "pure", t__backbone="resnet18")
arm("pure, softmax", "pure", head__name="softmax")
arm("pure, margin 0.3", "pure", head__margin=0.3)
arm("pure, cell type", "pure", t__cell_type="one_hot")
arm("pure, jitter 0", "pure", aug__statistics_jitter=0.0)
arm("pure, jitter 0.2", "pure", aug__statistics_jitter=0.2)
PURE = {"training.batches": "experiment", "adabn": "experiment"}
ARMS["pure mean teacher"] = ARMS["mean teacher"] | PURE
ARMS["pure mean teacher, balanced"] = ARMS["pure mean teacher"] | {
    "training.mean_teacher.pseudo_labels.method": "balanced", "training.mean_teacher.pseudo_labels.weight": 0.5,
}  # fmt: skip
ARMS["pure, held-out images, soft pseudo-labels"] = ARMS["pure mean teacher"] | {
    "training.unlabelled_source": "heldout", "training.mean_teacher.pseudo_labels.method": "soft",
    "training.mean_teacher.unlabelled_ratio": 1.0, "training.mean_teacher.consistency_weight": 0.0,
    "training.mean_teacher.pseudo_labels.weight": 0.5, "training.mean_teacher.pseudo_labels.start": 0,
}  # fmt: skip
ARMS["pure, held-out images"] = ARMS["pure mean teacher"] | {"training.unlabelled_source": "heldout"}
