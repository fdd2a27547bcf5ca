"""`python -m training MODEL …` is `xtrain MODEL …`, for torchrun, which starts modules."""

from training.cli import main

if __name__ == "__main__":
    main()
