"""Files of torch.save: archives and pickles, read and never run."""
