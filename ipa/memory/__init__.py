"""What a run takes in memory, told before it starts: values, budgets, and bytes of weights."""
