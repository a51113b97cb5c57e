"""From weights to a repository that people can trust: the model card, and the push of everything in one commit."""
