"""`python -m serving` runs the same command as its console script."""

from serving.cli import main

if __name__ == "__main__":
    main()
