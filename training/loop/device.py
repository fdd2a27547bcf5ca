"""Randomness as a function of (seed, epoch), so that going on after epoch k needs no saved random state."""

import random

import numpy as np
import torch


def seed_everything(seed: int, epoch: int = 0, rank: int = 0) -> torch.Generator:
    """Seed every global generator for one epoch; return the CPU generator for sampling and augmentation.

    Args:
        seed: the run's seed.
        epoch: 0 for building the network, 1, 2, … for the epochs.
        rank: of this process; dropout differs between processes, the returned generator does not.
    """
    # SeedSequence spreads neighbouring (seed, epoch) pairs over unrelated streams.
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint32)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed + 7919 * rank)
    return torch.Generator().manual_seed(mixed + 1)
