"""Learning: data sets, augmentation, training and evaluation of the engine's network."""
