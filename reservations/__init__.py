"""What GPUs exist, who may have them, who has them: the core, owned by one service process."""
