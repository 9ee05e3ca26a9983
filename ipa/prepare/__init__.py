"""What happens before tensors: pictures, token ids, noise and schedules, in numpy alone."""
