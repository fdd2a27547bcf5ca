"""What is scored: arrays, folders, archives, lists and tables of images, each as shards that are read by themselves."""
