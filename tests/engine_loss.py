"""nnU-Net's loss with deep supervision, as its trainer builds it."""

from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

LEVEL_WEIGHTS = (8 / 15, 4 / 15, 2 / 15, 1 / 15, 0)


def build_loss(*, batch_dice=False, regions=False, ignore_label=None):
    """Build Dice and cross-entropy of labels, or Dice and binary cross-entropy of regions, over five levels."""
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": regions, "ddp": False}
    kind = {"dice_class": MemoryEfficientSoftDiceLoss}
    loss = DC_and_BCE_loss({}, dice, **kind) if regions else DC_and_CE_loss(dice, {}, ignore_label=ignore_label, **kind)
    return DeepSupervisionWrapper(loss, LEVEL_WEIGHTS)
