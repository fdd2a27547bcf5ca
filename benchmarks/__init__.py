"""One script a claim, each side by side with what a user would pick instead."""
