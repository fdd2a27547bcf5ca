"""`python -m export` runs the same command as its console script."""

from xtrain.entry import export

if __name__ == "__main__":
    export()
