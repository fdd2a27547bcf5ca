"""`python -m serving` runs the same command as its console script."""

from xtrain.entry import serve

if __name__ == "__main__":
    serve()
