"""Training: recipes, schedules, optimizers, checkpoints and the trainer that puts them together."""
