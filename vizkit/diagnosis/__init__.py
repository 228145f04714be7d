"""The babysitter: what is wrong with a training run, by what evidence, and what to change."""
