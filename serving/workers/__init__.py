"""Several processes of one server: what they must share, in a folder of files, and how models change in all."""
