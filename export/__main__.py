"""`python -m export` runs the same command as its console script."""

from export.cli import main

if __name__ == "__main__":
    main()
