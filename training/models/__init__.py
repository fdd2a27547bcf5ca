"""The networks: a file a family with its published weights and recipes, the registry, and the classifier."""
