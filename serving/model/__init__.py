"""The exported file: its bytes, its card, running it, the folder of models, and the Kaggle CSV of its predictions."""
