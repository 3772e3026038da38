"""The words that settings and flags choose from, where the code behind them needs TensorFlow or Keras.

Nothing is imported here, so that a script's help and a typing mistake are answered at once.
"""

# Data
SPLITS = ("train", "validation", "test")
BAD_IMAGES = ("stop", "skip")

# Training
OPTIMIZERS = ("sgd", "adamw", "lamb", "lion", "muon")
MOMENTUM_FORMS = ("nesterov", "classical")
DECAY_FORMS = ("l2", "decoupled")
SCHEDULES = ("cosine", "step", "constant")
LOSSES = ("cross_entropy", "bce")
RATE_SCALINGS = ("off", "linear")
BATCH_NORMS = ("synchronized", "per_device")
CLASS_BALANCES = ("none", "weights", "sampler")

# Weights
HEADS = ("auto", "new")
NAMINGS = ("torchvision", "timm_v2", "cifar", "wide")

# Heat maps
SMOOTHINGS = ("none", "flips", "flips+scales")
COMBINATIONS = ("mean", "max", "product")
MAXIMIZE = "activation_maximization"
