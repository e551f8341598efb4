"""The training step, its loop and its checkpoints. Knows no Ray and no DeepSpeed."""
