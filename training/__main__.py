"""`python -m training MODEL …` is `xtrain MODEL …`, for torchrun, which starts modules."""

from xtrain.entry import train

if __name__ == "__main__":
    train()
