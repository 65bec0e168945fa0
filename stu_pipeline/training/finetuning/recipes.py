"""The one table of fine-tuning recipes (docs/reference/fine-tuning-recipes.md). Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_RECIPE = "warmup"
_WARMUP_EPOCHS = 50.0
WARMUP_SHARE = 0.05
"""A shorter schedule spends no more of its epochs on the warm-up than 1000 epochs spend with 50."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a training goes on from weights of another one."""

    name: str
    summary: str
    learning_rate: float = 1e-3
    """Highest one; of the parts of the network that move fastest."""
    max_warmup_epochs: float = _WARMUP_EPOCHS
    depth_decay: float = 1.0
    """Learning rate of each level of depth relative to the one before it, from the heads to the stem."""
    frozen_share: float = 0.0
    """Part of the epochs in which the encoder does not move."""
    body_factor: float = 1.0
    """Learning rate of loaded weights, and of heads that were kept, relative to new ones."""
    start_pull: float = 0.0
    """Strength of the pull to the starting weights, which takes the place of their weight decay (L2-SP)."""
    keeps_heads: bool = False
    """Heads that were kept are protected as the body is, output by output."""

    def choose_warmup_epochs(self, num_epochs: int) -> float:
        """Return the length of the warm-up for a schedule.

        >>> RECIPES["warmup"].choose_warmup_epochs(1000), RECIPES["warmup"].choose_warmup_epochs(100)
        (50.0, 5.0)
        """
        return min(self.max_warmup_epochs, WARMUP_SHARE * num_epochs)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="paper",
            summary="as STU-Net was fine-tuned, with a tenth of the usual learning rate",
            max_warmup_epochs=0,
        ),
        Recipe(name="warmup", summary="the learning rate rises in the first epochs"),
        Recipe(name="discriminative", summary="learning rates fall from the heads to the stem", depth_decay=0.8),
        Recipe(name="decoder-first", summary="the encoder rests in the first tenth of the epochs", frozen_share=0.1),
        Recipe(name="l2-start", summary="loaded weights are pulled to where they began", start_pull=1e-3),
        Recipe(
            name="continual",
            summary="body and kept heads move slowly and are pulled back, new heads learn freely",
            body_factor=0.1,
            start_pull=1e-2,
            keeps_heads=True,
        ),
    )
}
"""Numbers without a source in the reference page are our choice."""
