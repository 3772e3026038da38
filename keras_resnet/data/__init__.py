"""Data: where images come from, how they become network input, in which order and with which augmentation."""
