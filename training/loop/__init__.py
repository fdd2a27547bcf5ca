"""The training loop: batches on the device, augmentation, optimizer and schedule, several processes."""
