"""Models: the only part that knows transformers and PEFT. Checkpoints to networks, networks to stacks, examples to inputs."""
