"""Predictions as files: `ID,CLASS` for Kaggle, JSON lines, Parquet."""
