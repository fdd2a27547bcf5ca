"""`python -m scoring` runs the same command as its console script."""

from scoring.cli import main

if __name__ == "__main__":
    main()
